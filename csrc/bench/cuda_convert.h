// ggml's own dequantizers for a GPU, by what they write.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "bench/kernel_bench.h"

namespace apex::cuda {

// operation: to_float, to_half or to_bfloat.
bool can_convert(KernelOperation operation, ggml_type type);

// n stored weights at `from` become numbers at `to`, both in device memory.
void launch_convert(KernelOperation operation, ggml_type type, const void* from, void* to,
                    int64_t n, cudaStream_t stream);

}  // namespace apex::cuda
