#include "cuda/quadratic_forms.h"

#include "cuda/restore.cuh"
#include "kernels/quantized_types.h"

namespace apex::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;  // rows and columns of a block, 4 x 4 a thread
constexpr int kStep = 16;

template <typename Block, int Weights>
__global__ void __launch_bounds__(kThreads)
    differences_kernel(const Block* blocks, const float* weights, int64_t n, float* errors) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += step) {
        errors[i] = weights[i] - restore(blocks[i / Weights], static_cast<int>(i % Weights));
    }
}

template <typename Block, int Weights>
cudaError_t launch(const uint8_t* bytes, const float* weights, int64_t n, float* errors,
                   cudaStream_t stream) {
    constexpr int kBlocks = 512;
    differences_kernel<Block, Weights><<<kBlocks, kThreads, 0, stream>>>(
        reinterpret_cast<const Block*>(bytes), weights, n, errors);
    return cudaGetLastError();
}

// products[j][row] = sum of moment[i][j] * rows[row][i], i rising. A product of floats is exact in
// double, so a fused addition rounds where the CPU's does.
__global__ void __launch_bounds__(kThreads)
    products_kernel(const float* moment, int n, const float* rows, int n_rows, double* products) {
    // A double more a row: a warp writes a column of `left` at once.
    __shared__ double left[kStep][kTile + 1], right[kStep][kTile];
    const int first_row = static_cast<int>(blockIdx.y) * kTile;
    const int first = static_cast<int>(blockIdx.x) * kTile;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    double sums[4][4] = {};
    for (int begin = 0; begin < n; begin += kStep) {
        for (int at = static_cast<int>(threadIdx.x); at < kStep * kTile; at += kThreads) {
            const int row = first_row + at / kStep, i = begin + at % kStep;
            left[at % kStep][at / kStep] =
                row < n_rows && i < n ? rows[int64_t{row} * n + i] : 0.0f;
            const int k = begin + at / kTile, column = first + at % kTile;
            right[at / kTile][at % kTile] =
                k < n && column < n ? moment[int64_t{k} * n + column] : 0.0f;
        }
        __syncthreads();
        for (int step = 0; step < kStep; ++step) {
#pragma unroll
            for (int a = 0; a < 4; ++a) {
#pragma unroll
                for (int b = 0; b < 4; ++b) {
                    sums[a][b] = fma(left[step][x + 16 * a], right[step][y + 16 * b], sums[a][b]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int a = 0; a < 4; ++a) {
#pragma unroll
        for (int b = 0; b < 4; ++b) {
            const int row = first_row + x + 16 * a, column = first + y + 16 * b;
            if (row < n_rows && column < n) products[int64_t{column} * n_rows + row] = sums[a][b];
        }
    }
}

constexpr int kSumThreads = 32;

__global__ void __launch_bounds__(kSumThreads)
    forms_kernel(const double* products, int n, const float* rows, int n_rows, double* per_row) {
    const int row = static_cast<int>(blockIdx.x * kSumThreads + threadIdx.x);
    if (row >= n_rows) return;
    double sum = 0.0;
#pragma unroll 16
    for (int j = 0; j < n; ++j) {
        sum += products[int64_t{j} * n_rows + row] * rows[int64_t{row} * n + j];
    }
    per_row[row] = sum;
}

constexpr int kCopyThreads = 128;

// A block a row.
__global__ void __launch_bounds__(kCopyThreads)
    keep_less_kernel(const double* reached, const uint8_t* rows, size_t row_bytes, double* least,
                     uint8_t* kept) {
    const size_t row = blockIdx.x;
    const bool is_less = reached[row] < least[row];
    __syncthreads();
    if (!is_less) return;
    for (size_t i = threadIdx.x; i < row_bytes; i += kCopyThreads) {
        kept[row * row_bytes + i] = rows[row * row_bytes + i];
    }
    if (threadIdx.x == 0) least[row] = reached[row];
}

}  // namespace

cudaError_t launch_differences(ggml_type type, const uint8_t* bytes, const float* weights,
                               int64_t n_rows, int64_t n, float* errors, cudaStream_t stream) {
    switch (type) {
#define APEX_CASE(name, function, gpu_type, block, weights_of_block, matrix) \
    case GGML_TYPE_##name:                                                   \
        return launch<block, weights_of_block>(bytes, weights, n_rows * n, errors, stream);
        APEX_QUANTIZED_TYPES(APEX_CASE)
#undef APEX_CASE
        default:
            return cudaErrorNotSupported;
    }
}

cudaError_t launch_forms(const float* moment, int n, const float* rows, int n_rows,
                         double* products, double* per_row, cudaStream_t stream) {
    const auto tiles = [](int count) { return static_cast<unsigned>((count + kTile - 1) / kTile); };
    products_kernel<<<dim3(tiles(n), tiles(n_rows)), kThreads, 0, stream>>>(moment, n, rows, n_rows,
                                                                            products);
    const auto blocks = static_cast<unsigned>((n_rows + kSumThreads - 1) / kSumThreads);
    forms_kernel<<<blocks, kSumThreads, 0, stream>>>(products, n, rows, n_rows, per_row);
    return cudaGetLastError();
}

cudaError_t launch_keep_less(const double* reached, const uint8_t* rows, int n_rows,
                             size_t row_bytes, double* least, uint8_t* kept, cudaStream_t stream) {
    keep_less_kernel<<<static_cast<unsigned>(n_rows), kCopyThreads, 0, stream>>>(
        reached, rows, row_bytes, least, kept);
    return cudaGetLastError();
}

}  // namespace apex::cuda
