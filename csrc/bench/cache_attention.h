// One layer's cache by itself: rows are written as llama.cpp writes them, and attended to with its
// own operations, on a device of choice.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ggml.h"

namespace apex {

// Bytes of rows of n_per_row values each, as SET_ROWS of the device ("cpu" or "cuda") writes them.
// Throws InvalidArgument where rows are no whole blocks, DeviceError where the device cannot.
std::vector<uint8_t> write_cache_rows(const std::string& device, ggml_type type, const float* rows,
                                      int64_t n_rows, int64_t n_per_row);

// The values that stored rows stand for.
std::vector<float> read_cache_rows(ggml_type type, const uint8_t* stored, int64_t n_bytes,
                                   int64_t n_per_row);

struct AttentionShape {
    int64_t head_size = 0;
    int64_t n_heads = 0;     // of the queries
    int64_t n_kv_heads = 0;  // of the cache
    int64_t n_cells = 0;     // of each sequence
    int64_t n_queries = 0;   // of each sequence
    int64_t n_sequences = 1;
    ggml_type type_k = GGML_TYPE_F16;
    ggml_type type_v = GGML_TYPE_F16;
};

// Every query attends to all cells of its sequence. queries: (sequence, query, head, value); keys
// and values: (sequence, cell, head, value), written to a cache first. The result's shape is the
// queries'. Throws InvalidArgument, or DeviceError where the device has no kernel for it.
std::vector<float> cache_attention(const std::string& device, const AttentionShape& shape,
                                   const float* queries, const float* keys, const float* values);

// Seconds of each of so many computations of n_layers attentions of that shape, one after the
// other, over caches of their own that hold random rows. Throws what cache_attention throws.
std::vector<double> time_cache_attention(const std::string& device, const AttentionShape& shape,
                                         int n_layers, int repetitions);

}  // namespace apex
