// What ggml's CUDA backend asks of the cache types; third_party/llama.cpp/turbo_edits.py calls it
// there.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "turbo.h"

inline bool apex_is_turbo(ggml_type type) {
    return type == GGML_TYPE_TURBO2 || type == GGML_TYPE_TURBO3 || type == GGML_TYPE_TURBO4;
}

// SET_ROWS of floats, by 32- or 64-bit numbers of rows.
bool apex_turbo_can_set_rows(const ggml_tensor* op);

// Does it on a stream; false, and nothing is done, for rows of another type.
bool apex_turbo_set_rows(ggml_tensor* op, cudaStream_t stream);

// to_fp16_cuda_t and to_fp16_nc_cuda_t of convert.cuh; null for other types.
using ApexToHalf = void (*)(const void*, half*, int64_t, cudaStream_t);
using ApexToHalfStrided = void (*)(const void*, half*, int64_t, int64_t, int64_t, int64_t, int64_t,
                                   int64_t, int64_t, cudaStream_t);
ApexToHalf apex_turbo_to_half(ggml_type type);
ApexToHalfStrided apex_turbo_to_half_strided(ggml_type type);
