// What a KV cache may hold, and which models can have it.
#pragma once

#include <string>
#include <vector>

#include "ggml.h"
#include "llama.h"
#include "model/model.h"

namespace apex {

// The types of this build: llama.cpp's (common/arg.cpp, kv_cache_types) and those of csrc/turbo.
const std::vector<ggml_type>& cache_types();
bool is_cache_type(ggml_type type);

// A number of turbo2, turbo3 or turbo4, in a build that has them. No file holds these types.
bool is_turbo_number(int64_t number);

// The type of that number, ggml's or of caches alone. Throws InvalidArgument for others, saying so
// where this build is without turbo2, turbo3 and turbo4.
ggml_type checked_any_type(int64_t number);

// How the GPU attends to a cache when one token is generated.
enum class CachePath {
    direct,     // a kernel reads it as it is
    converted,  // all of it is converted to 16 bits for every token
    on_host,    // the CPU attends
};

// As compiled into this build; direct in a build without CUDA.
CachePath cuda_cache_path(ggml_type type_k, ggml_type type_v);

// Throws InvalidArgument for a type no cache can have, ModelError with the reason where this model
// cannot have it.
void check_cache_types(const Model& model, ggml_type type_k, ggml_type type_v);

// Codebooks are for rotated values. Throws ModelError where llama.cpp rotates none in this context.
void check_cache_rotation(const Model& model, llama_context* context, ggml_type type_k,
                          ggml_type type_v);

}  // namespace apex
