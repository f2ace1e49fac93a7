// The tensors in which a context keeps what it has computed, by layer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/context.h"

namespace apex {

// kind is llama.cpp's: "k" and "v" of a KV cache, "idx_k" of an indexer's, "r" and "s" of a
// recurrent layer's convolution and state.
struct CacheTensor {
    int layer = 0;
    std::string kind;
    ggml_type type = GGML_TYPE_F16;
    int64_t width = 0;  // values a row
    int64_t rows = 0;   // cells of a KV cache, sequences of a recurrent one
    uint64_t n_bytes = 0;
};

// Those that the graph of a full batch reads or writes, in order of layers. Throws what a Context
// throws.
std::vector<CacheTensor> cache_tensors(const std::shared_ptr<Model>& model,
                                       const ContextOptions& options);

}  // namespace apex
