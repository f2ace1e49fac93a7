#include "bench/read_all.h"

namespace apex::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    read_kernel(const uint4* data, int64_t n_words, uint32_t* sums) {
    uint32_t sum = 0;
    const int64_t step = int64_t{gridDim.x} * kThreads;
#pragma unroll 4
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n_words; i += step) {
        const uint4 word = data[i];
        sum += word.x + word.y + word.z + word.w;
    }
    atomicAdd(sums + blockIdx.x, sum);  // of integers: the order does not matter
}

}  // namespace

cudaError_t launch_read(const void* data, int64_t n_words, uint32_t* sums, cudaStream_t stream) {
    const cudaError_t cleared = cudaMemsetAsync(sums, 0, kReadBlocks * sizeof(uint32_t), stream);
    if (cleared != cudaSuccess) return cleared;
    read_kernel<<<kReadBlocks, kThreads, 0, stream>>>(static_cast<const uint4*>(data), n_words,
                                                      sums);
    return cudaGetLastError();
}

}  // namespace apex::cuda
