// Searches with error feedback: a block of threads some rows under one basis (scalar_search.cuh,
// scalar_refine.cuh).
#include "cuda/scalar_refine.cuh"
#include "cuda/scalar_search.h"

namespace apex::cuda {
namespace {

constexpr int kMaxThreads = 512;

template <int kBlock, bool kBook, int kRows, int kSlots>
__global__ void __launch_bounds__(kMaxThreads)
    scalar_search_kernel(const __grid_constant__ SearchJob job) {
    const Block block;
    ScalarSearch<kBlock, kBook, kRows, kSlots> search(
        block, job, static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),
        static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x), nullptr);
    search.run();
}

int blocks_of(const SearchJob& job, int rows) {
    return (job.n_rows + rows - 1) / rows;
}

template <int kBlock, bool kBook, int kRows, int kSlots>
cudaError_t launch(const SearchJob& job, int n_bases, int threads, cudaStream_t stream) {
    const auto kernel = scalar_search_kernel<kBlock, kBook, kRows, kSlots>;
    const SearchMemory memory(job, kBlock, kRows, nullptr);
    const size_t bytes = static_cast<size_t>(memory.n_floats) * sizeof(float);
    const cudaError_t result = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (result != cudaSuccess) return result;
    const dim3 grid(static_cast<unsigned>(blocks_of(job, kRows)), static_cast<unsigned>(n_bases));
    kernel<<<grid, static_cast<unsigned>(threads), bytes, stream>>>(job);
    return cudaGetLastError();
}

template <int kBlock, bool kBook>
cudaError_t launch_for_width(const SearchJob& job, int n_bases, cudaStream_t stream) {
    const SearchShape shape = search_shape(job.n);
    switch (shape.slots) {
        case 2:
            return launch<kBlock, kBook, 16, 2>(job, n_bases, shape.threads, stream);
        case 4:
            return launch<kBlock, kBook, 16, 4>(job, n_bases, shape.threads, stream);
        case 8:
            return launch<kBlock, kBook, 8, 8>(job, n_bases, shape.threads, stream);
        case 16:
            return launch<kBlock, kBook, 4, 16>(job, n_bases, shape.threads, stream);
        default:
            return cudaErrorNotSupported;
    }
}

}  // namespace

SearchShape search_shape(int n) {
    const int slots = n <= 1024 ? 2 : n <= 2048 ? 4 : n <= 4096 ? 8 : n <= 8192 ? 16 : 0;
    if (slots == 0) return {0, 0, 0};
    const int rows = slots <= 4 ? 16 : 64 / slots;
    return {rows, slots, (n + slots * 32 - 1) / (slots * 32) * 32};
}

size_t search_scratch(const SearchJob& job, int n_bases) {
    const int rows = search_shape(job.n).rows;
    return static_cast<size_t>(blocks_of(job, rows)) * static_cast<size_t>(n_bases) *
           kScratchArrays * static_cast<size_t>(rows) * static_cast<size_t>(job.n);
}

cudaError_t launch_search(const SearchJob& job, int n_bases, cudaStream_t stream) {
    if (job.format.has_code_book) return launch_for_width<32, true>(job, n_bases, stream);
    if (job.format.block == 32) return launch_for_width<32, false>(job, n_bases, stream);
    return launch_for_width<16, false>(job, n_bases, stream);
}

}  // namespace apex::cuda
