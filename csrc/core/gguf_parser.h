// GGUF v2/v3 structure: bytes in, a checked description out. Nothing here trusts a number it read.
//
// Layout (little-endian): magic "GGUF", u32 version, u64 tensor count, u64 key-value count;
// key-value pairs (string key, u32 type, value); tensor table (string name, u32 n_dims,
// u64 ne[n_dims], u32 type, u64 offset); padding to the alignment; tensor data.
// Source: ggml/include/gguf.h of the pinned llama.cpp.
//
// Why not gguf_init_from_file: it says "failed to read" for everything, does not check that the
// data lies inside the file, and its getters abort on a wrong type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "ggml.h"

namespace apex {

enum class GgufValueType : uint32_t {
    u8 = 0,
    i8 = 1,
    u16 = 2,
    i16 = 3,
    u32 = 4,
    i32 = 5,
    f32 = 6,
    boolean = 7,
    string = 8,
    array = 9,
    u64 = 10,
    i64 = 11,
    f64 = 12,
};

using GgufScalar = std::variant<bool, uint64_t, int64_t, double, std::string>;

struct GgufKeyValue {
    std::string key;
    GgufValueType type{};  // of the value, or of the elements where is_array
    bool is_array = false;
    uint64_t n_values = 1;
    size_t begin = 0;  // the whole pair is bytes [begin, end) of the file
    size_t end = 0;
    std::vector<GgufScalar> values;  // empty where the array is longer than the limit below
};

// Block-wise settings have one value a block (at most 512 in llama.cpp); vocabularies have 10^5.
constexpr uint64_t kMaxDecodedArray = 4096;

struct GgufTensor {
    std::string name;
    int n_dims = 0;
    int64_t ne[4] = {1, 1, 1, 1};  // ggml order: ne[0] is the row length
    ggml_type type = GGML_TYPE_COUNT;
    uint64_t offset = 0;  // from the start of the data section
    uint64_t n_bytes = 0;

    int64_t n_per_row() const { return ne[0]; }
    int64_t n_slices() const { return ne[2] * ne[3]; }
    int64_t rows_per_slice() const { return ne[1]; }
    int64_t n_rows() const { return ne[1] * ne[2] * ne[3]; }
};

constexpr uint64_t kDefaultAlignment = 32;  // GGUF_DEFAULT_ALIGNMENT

struct GgufHeader {
    uint32_t version = 0;
    uint64_t alignment = kDefaultAlignment;
    size_t kv_begin = 0;
    size_t data_begin = 0;
    uint64_t data_needed = 0;   // bytes from data_begin to the end of the last tensor
    uint64_t data_present = 0;  // of them in the file: none of a header alone, some of a download
    std::vector<GgufKeyValue> key_values;
    std::vector<GgufTensor> tensors;

    bool has_data() const { return data_present >= data_needed; }
    const GgufKeyValue* find(const std::string& key) const;
};

// Throws GgufError naming path, the place, what was expected and what was found. The tensor data
// may end early. set_alignment is the first shard's: one that states none may be padded to it.
GgufHeader parse_gguf(const uint8_t* data, size_t size, const std::string& path,
                      uint64_t set_alignment = kDefaultAlignment);

}  // namespace apex
