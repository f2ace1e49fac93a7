// Sums of squares of rows and of their quantization errors: the numbers of core/row_error.h, added
// in the same order, next to the rows they are about.
#include "cuda/restore.cuh"
#include "cuda/row_errors.h"
#include "kernels/quantized_types.h"

namespace apex::cuda {
namespace {

constexpr int kLanes = 16;  // partial sums per row, as in core/row_error.cpp
constexpr int kThreads = 128;
constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ float widen(const void* src, Source source, int64_t i) {
    if (source == Source::f32) return static_cast<const float*>(src)[i];
    const uint16_t bits = static_cast<const uint16_t*>(src)[i];
    return source == Source::bf16 ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
                                  : __half2float(__ushort_as_half(bits));
}

// A thread per partial sum. Threads past the last row repeat it: all take part in the exchanges.
template <typename Block, int Weights>
__global__ void __launch_bounds__(kThreads) sum_errors(const RowsJob job, RowError* errors) {
    const int64_t n_rows = job.n_blocks / job.blocks_per_row;
    const int64_t place =
        static_cast<int64_t>(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
    const int64_t row = place < n_rows ? place : n_rows - 1;
    const int lane = threadIdx.x % kLanes;
    const auto* blocks = static_cast<const Block*>(job.dst) + row * job.blocks_per_row;
    const int64_t n_per_row = job.blocks_per_row * Weights;
    double error = 0.0, weights = 0.0;
    for (int64_t i = lane; i < n_per_row; i += kLanes) {
        const double x = widen(job.src, job.source, row * n_per_row + i);
        const double restored = restore(blocks[i / Weights], static_cast<int>(i % Weights));
        const double difference = x - restored;
        error += difference * difference;
        weights += x * x;
    }
    for (int width = kLanes / 2; width > 0; width /= 2) {
        error += __shfl_down_sync(kWholeWarp, error, width, kLanes);
        weights += __shfl_down_sync(kWholeWarp, weights, width, kLanes);
    }
    if (lane == 0 && place < n_rows) errors[row] = {error, weights};
}

template <typename Block, int Weights>
cudaError_t launch(const RowsJob& job, RowError* errors, cudaStream_t stream) {
    constexpr int kRows = kThreads / kLanes;
    const int64_t n_rows = job.n_blocks / job.blocks_per_row;
    const auto groups = static_cast<unsigned>((n_rows + kRows - 1) / kRows);
    sum_errors<Block, Weights><<<groups, kThreads, 0, stream>>>(job, errors);
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_row_errors(ggml_type type, const RowsJob& job, RowError* errors,
                              cudaStream_t stream) {
    switch (type) {
#define APEX_CASE(name, function, gpu_type, block, weights, matrix) \
    case GGML_TYPE_##name:                                          \
        return launch<block, weights>(job, errors, stream);
        APEX_QUANTIZED_TYPES(APEX_CASE)
#undef APEX_CASE
        default:
            return cudaErrorNotSupported;
    }
}

}  // namespace apex::cuda
