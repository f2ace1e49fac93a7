#include "core/gguf_parser.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <unordered_set>

#include "core/checks.h"
#include "core/error.h"
#include "core/utf8.h"

namespace apex {
namespace {

// A cursor that cannot leave the file.
class ByteReader {
  public:
    ByteReader(const uint8_t* data, size_t size, const std::string& path)
        : data_(data), size_(size), path_(path) {}

    size_t position() const { return position_; }
    size_t remaining() const { return size_ - position_; }

    template <class T>
    T read(const char* what) {
        T value;
        std::memcpy(&value, take(sizeof(T), what), sizeof(T));
        return value;
    }

    std::string read_string(const char* what, size_t max_length) {
        const auto length = read<uint64_t>(what);
        if (length > max_length) {
            damaged(what, " is ", length, " bytes long, the limit is ", max_length);
        }
        const auto* text = reinterpret_cast<const char*>(take(length, what));
        return {text, static_cast<size_t>(length)};
    }

    // Keys and tensor names: text, not empty. String values may hold any bytes (tokens do).
    std::string read_name(const char* what, size_t max_length) {
        std::string name = read_string(what, max_length);
        if (name.empty()) damaged(what, " is empty");
        if (!is_utf8(name)) damaged(what, " is not valid UTF-8");
        return name;
    }

    void skip(uint64_t n_bytes, const char* what) { take(n_bytes, what); }

    template <class... Parts>
    [[noreturn]] void damaged(const Parts&... parts) const {
        fail<GgufError>(path_, ": damaged GGUF header near byte ", position_, ": ", parts...);
    }

  private:
    const uint8_t* take(uint64_t n_bytes, const char* what) {
        if (n_bytes > remaining()) {
            damaged(what, " needs ", n_bytes, " bytes, the file has ", remaining(), " left");
        }
        const uint8_t* here = data_ + position_;
        position_ += static_cast<size_t>(n_bytes);
        return here;
    }

    const uint8_t* data_;
    size_t size_;
    const std::string& path_;
    size_t position_ = 0;
};

// Limits far above any real model, low enough that no allocation below is a surprise.
constexpr uint64_t kMaxKeyLength = 65535;        // the format's own limit for keys
constexpr uint64_t kMaxStringLength = 1u << 30;  // a chat template is 10^4, a grammar 10^6
constexpr uint64_t kMinPairBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;
constexpr uint64_t kMaxEntries = 1u << 20;  // models have 10^2 keys and at most 10^5 tensors
constexpr uint64_t kMinAlignment = 8;       // the format asks for a multiple of 8
constexpr uint64_t kMaxAlignment = 1u << 20;

size_t value_size(GgufValueType type) {
    switch (type) {
        case GgufValueType::u8:
        case GgufValueType::i8:
        case GgufValueType::boolean:
            return 1;
        case GgufValueType::u16:
        case GgufValueType::i16:
            return 2;
        case GgufValueType::u32:
        case GgufValueType::i32:
        case GgufValueType::f32:
            return 4;
        case GgufValueType::u64:
        case GgufValueType::i64:
        case GgufValueType::f64:
            return 8;
        default:
            return 0;  // strings and arrays have no fixed size
    }
}

GgufScalar read_scalar(ByteReader& in, GgufValueType type) {
    switch (type) {
        case GgufValueType::u8:
            return uint64_t{in.read<uint8_t>("a u8")};
        case GgufValueType::i8:
            return int64_t{in.read<int8_t>("an i8")};
        case GgufValueType::u16:
            return uint64_t{in.read<uint16_t>("a u16")};
        case GgufValueType::i16:
            return int64_t{in.read<int16_t>("an i16")};
        case GgufValueType::u32:
            return uint64_t{in.read<uint32_t>("a u32")};
        case GgufValueType::i32:
            return int64_t{in.read<int32_t>("an i32")};
        case GgufValueType::u64:
            return in.read<uint64_t>("a u64");
        case GgufValueType::i64:
            return in.read<int64_t>("an i64");
        case GgufValueType::f32:
            return double{in.read<float>("an f32")};
        case GgufValueType::f64:
            return in.read<double>("an f64");
        case GgufValueType::boolean: {
            const auto byte = in.read<uint8_t>("a bool");
            if (byte > 1) in.damaged("a bool holds ", int{byte}, ", expected 0 or 1");
            return byte == 1;
        }
        case GgufValueType::string:
            return in.read_string("a string value", kMaxStringLength);
        default:
            in.damaged("value type ", static_cast<uint32_t>(type), " cannot be read");
    }
}

GgufValueType read_value_type(ByteReader& in, const std::string& key) {
    const auto number = in.read<uint32_t>("a value type");
    if (number > static_cast<uint32_t>(GgufValueType::f64)) {
        in.damaged("key '", key, "' has value type ", number, ", expected 0 to 12");
    }
    return static_cast<GgufValueType>(number);
}

void read_array(ByteReader& in, GgufKeyValue& pair) {
    pair.is_array = true;
    pair.type = read_value_type(in, pair.key);
    if (pair.type == GgufValueType::array) {
        in.damaged("key '", pair.key, "' is an array of arrays, which GGUF readers do not support");
    }
    pair.n_values = in.read<uint64_t>("an array length");
    const size_t element = value_size(pair.type);
    const uint64_t least = element == 0 ? sizeof(uint64_t) : element;
    if (pair.n_values > in.remaining() / least) {
        in.damaged("key '", pair.key, "' announces ", pair.n_values, " values, only ",
                   in.remaining(), " bytes are left");
    }
    if (pair.n_values <= kMaxDecodedArray) {
        pair.values.reserve(static_cast<size_t>(pair.n_values));
        for (uint64_t i = 0; i < pair.n_values; ++i) {
            pair.values.push_back(read_scalar(in, pair.type));
        }
    } else if (element != 0) {
        in.skip(pair.n_values * element, "array values");
    } else {
        for (uint64_t i = 0; i < pair.n_values; ++i) {
            const auto length = in.read<uint64_t>("a string length");
            in.skip(length, "a string in an array");
        }
    }
}

GgufKeyValue read_pair(ByteReader& in) {
    GgufKeyValue pair;
    pair.begin = in.position();
    pair.key = in.read_name("a key", kMaxKeyLength);
    pair.type = read_value_type(in, pair.key);
    if (pair.type == GgufValueType::array) {
        read_array(in, pair);
    } else {
        pair.values.push_back(read_scalar(in, pair.type));
    }
    pair.end = in.position();
    return pair;
}

void read_key_values(ByteReader& in, uint64_t n_pairs, GgufHeader& header) {
    std::unordered_set<std::string> seen;
    header.kv_begin = in.position();
    header.key_values.reserve(static_cast<size_t>(n_pairs));
    for (uint64_t i = 0; i < n_pairs; ++i) {
        header.key_values.push_back(read_pair(in));
        const std::string& key = header.key_values.back().key;
        if (!seen.insert(key).second) in.damaged("key '", key, "' occurs twice");
    }
}

void read_alignment(ByteReader& in, GgufHeader& header) {
    const GgufKeyValue* pair = header.find("general.alignment");
    if (pair == nullptr) return;
    if (pair->is_array || pair->type != GgufValueType::u32) {
        in.damaged("general.alignment must be a single u32");
    }
    header.alignment = std::get<uint64_t>(pair->values[0]);
    const uint64_t a = header.alignment;
    if ((a & (a - 1)) != 0 || a < kMinAlignment || a > kMaxAlignment) {
        in.damaged("general.alignment is ", a, ", expected a power of two from ", kMinAlignment,
                   " to ", kMaxAlignment);
    }
}

// No dimensions: a single weight. A dimension of 0: a tensor without weights. ggml's reader takes
// both.
void read_dimensions(ByteReader& in, GgufTensor& tensor) {
    const auto n_dims = in.read<uint32_t>("a dimension count");
    if (n_dims > GGML_MAX_DIMS) {
        in.damaged("tensor '", tensor.name, "' has ", n_dims, " dimensions, expected at most 4");
    }
    tensor.n_dims = std::max(static_cast<int>(n_dims), 1);
    int64_t n_elements = 1;
    for (uint32_t d = 0; d < n_dims; ++d) {
        const auto ne = in.read<int64_t>("a dimension");
        if (ne < 0) in.damaged("tensor '", tensor.name, "' has dimension ", ne, ", expected >= 0");
        const int64_t factor = std::max<int64_t>(ne, 1);
        if (factor > INT64_MAX / 8 / n_elements) {
            in.damaged("tensor '", tensor.name, "' has more than 2^60 elements");
        }
        n_elements *= factor;
        tensor.ne[d] = ne;
    }
}

GgufTensor read_tensor(ByteReader& in) {
    GgufTensor tensor;
    tensor.name = in.read_name("a tensor name", GGML_MAX_NAME - 1);
    if (tensor.name.find('\0') != std::string::npos) in.damaged("a tensor name holds a zero byte");
    read_dimensions(in, tensor);
    const auto type = in.read<uint32_t>("a tensor type");
    if (!is_known_type(type)) {
        in.damaged("tensor '", tensor.name, "' has type number ", type,
                   ", which this ggml does not know or has removed");
    }
    tensor.type = static_cast<ggml_type>(type);
    if (tensor.ne[0] % ggml_blck_size(tensor.type) != 0) {
        in.damaged("tensor '", tensor.name, "' has rows of ", tensor.ne[0],
                   ", not a multiple of the block of ", ggml_blck_size(tensor.type), " of ",
                   ggml_type_name(tensor.type));
    }
    const auto n_rows = static_cast<uint64_t>(tensor.n_rows());
    if (tensor.ne[0] > 0) tensor.n_bytes = row_bytes(tensor.type, tensor.ne[0]) * n_rows;
    tensor.offset = in.read<uint64_t>("a tensor offset");
    return tensor;
}

void read_tensors(ByteReader& in, uint64_t n_tensors, GgufHeader& header) {
    std::unordered_set<std::string> seen;
    header.tensors.reserve(static_cast<size_t>(n_tensors));
    for (uint64_t i = 0; i < n_tensors; ++i) {
        header.tensors.push_back(read_tensor(in));
        const std::string& name = header.tensors.back().name;
        if (!seen.insert(name).second) in.damaged("tensor '", name, "' occurs twice");
    }
}

uint64_t padded(uint64_t position, uint64_t alignment) {
    return (position + alignment - 1) / alignment * alignment;
}

// Tensors lie one after the other, each padded to this alignment, as every writer lays them out.
bool is_packed(const GgufHeader& header, uint64_t alignment) {
    uint64_t expected = 0;
    for (const GgufTensor& tensor : header.tensors) {
        if (tensor.offset != expected || tensor.n_bytes > UINT64_MAX / 4) return false;
        expected = padded(expected + tensor.n_bytes, alignment);
        if (expected > UINT64_MAX / 4) return false;
    }
    return true;
}

// The file ends where packed data of this alignment end, with or without the last padding.
bool ends_there(const GgufHeader& header, size_t table_end, size_t size, uint64_t alignment) {
    if (header.tensors.empty()) return true;
    const GgufTensor& last = header.tensors.back();
    const uint64_t end = padded(table_end, alignment) + last.offset + last.n_bytes;
    return size == end || size == padded(end, alignment);
}

// The gguf package writes general.alignment into the first shard of a set only, and pads all to it
// (0.19.0). Offsets and the file's size tell which alignment a shard without the key has.
uint64_t shard_alignment(const ByteReader& in, const GgufHeader& header, size_t size,
                         uint64_t set_alignment) {
    const bool own = is_packed(header, kDefaultAlignment);
    const bool of_set = is_packed(header, set_alignment);
    if (!of_set) return kDefaultAlignment;
    const size_t end = in.position();
    if (!own || padded(end, kDefaultAlignment) == padded(end, set_alignment)) return set_alignment;
    const bool own_end = ends_there(header, end, size, kDefaultAlignment);
    const bool set_end = ends_there(header, end, size, set_alignment);
    if (own_end != set_end) return set_end ? set_alignment : kDefaultAlignment;
    in.damaged("it states no general.alignment, the first shard states ", set_alignment,
               ", and its data can be read either way; write the model again");
}

void check_offsets(const ByteReader& in, const GgufHeader& header) {
    for (const GgufTensor& tensor : header.tensors) {
        if (tensor.offset % header.alignment != 0) {
            in.damaged("tensor '", tensor.name, "' begins at ", tensor.offset,
                       ", not a multiple of the alignment ", header.alignment);
        }
        if (tensor.offset > UINT64_MAX / 4 || tensor.n_bytes > UINT64_MAX / 4) {
            in.damaged("tensor '", tensor.name, "' lies beyond any file: offset ", tensor.offset,
                       ", ", tensor.n_bytes, " bytes");
        }
    }
}

// Data must not be shared; gaps are allowed, as the format allows them. How many bytes of data the
// header promises.
uint64_t data_extent(const ByteReader& in, const GgufHeader& header) {
    std::vector<size_t> order(header.tensors.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return header.tensors[a].offset < header.tensors[b].offset;
    });
    const GgufTensor* previous = nullptr;
    for (const size_t i : order) {
        const GgufTensor& tensor = header.tensors[i];
        if (tensor.n_bytes == 0) continue;
        if (previous != nullptr && tensor.offset < previous->offset + previous->n_bytes) {
            in.damaged("tensors '", previous->name, "' and '", tensor.name, "' overlap at offset ",
                       tensor.offset);
        }
        previous = &tensor;
    }
    return previous == nullptr ? 0 : previous->offset + previous->n_bytes;
}

// A count beyond what the rest of the file can hold must not lead to an allocation.
void check_count(const ByteReader& in, uint64_t count, uint64_t least_bytes, const char* what) {
    if (count > in.remaining() / least_bytes) {
        in.damaged("the header announces ", count, " ", what, ", the file has only ",
                   in.remaining(), " bytes left");
    }
    if (count > kMaxEntries) {
        in.damaged("the header announces ", count, " ", what, ", the limit is ", kMaxEntries);
    }
}

uint32_t read_version(ByteReader& in, const std::string& path) {
    const auto magic = in.read<uint32_t>("the magic");
    if (std::memcmp(&magic, "GGUF", 4) != 0) {
        fail<GgufError>(path,
                        ": expected a GGUF file, found other content (no 'GGUF' at its start)");
    }
    const auto version = in.read<uint32_t>("the version");
    if ((version & 0xffffu) == 0 && version != 0) {
        fail<GgufError>(path, ": a big-endian GGUF file; only little-endian ones are supported");
    }
    if (version < 2 || version > 3) {
        fail<GgufError>(path, ": GGUF version ", version, ", expected 2 or 3");
    }
    return version;
}

}  // namespace

const GgufKeyValue* GgufHeader::find(const std::string& key) const {
    for (const auto& pair : key_values) {
        if (pair.key == key) return &pair;
    }
    return nullptr;
}

GgufHeader parse_gguf(const uint8_t* data, size_t size, const std::string& path,
                      uint64_t set_alignment) {
    ByteReader in(data, size, path);
    GgufHeader header;
    header.version = read_version(in, path);
    const auto n_tensors = in.read<uint64_t>("the tensor count");
    const auto n_pairs = in.read<uint64_t>("the key-value count");
    check_count(in, n_pairs, kMinPairBytes, "keys");
    read_key_values(in, n_pairs, header);
    check_count(in, n_tensors, kMinTensorBytes, "tensors");
    read_alignment(in, header);
    read_tensors(in, n_tensors, header);

    if (set_alignment != kDefaultAlignment && header.find("general.alignment") == nullptr) {
        header.alignment = shard_alignment(in, header, size, set_alignment);
    }
    check_offsets(in, header);
    header.data_begin = static_cast<size_t>(padded(in.position(), header.alignment));
    header.data_needed = data_extent(in, header);
    header.data_present = size > header.data_begin ? size - header.data_begin : 0;
    return header;
}

}  // namespace apex
