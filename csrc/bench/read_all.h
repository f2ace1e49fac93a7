// Memory read and added up: what a GPU's memory gives to a kernel that writes nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace apex::cuda {

inline constexpr int kReadBlocks = 2048;  // sums that launch_read writes

// data: n_words 16-byte words. sums: kReadBlocks.
cudaError_t launch_read(const void* data, int64_t n_words, uint32_t* sums, cudaStream_t stream);

}  // namespace apex::cuda
