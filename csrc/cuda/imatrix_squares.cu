// Squared inputs added up by column: a thread a column, its rows one after the other as on the CPU.
// Columns are plenty and rows are loaded ahead, so that the additions' order costs little.
#include "cuda/imatrix_squares.h"
#include "cuda/routed_rows.h"
#include "cuda/squares.cuh"

namespace apex::cuda {
namespace {

// One warp: few columns then already make many blocks.
constexpr int kPlainThreads = 32;

// Rows loaded before they are added: a load takes as long as many additions.
constexpr int kAhead = 16;

// Adds n rows in order; row(i) gives the value in the i-th. The next rows are on their way while
// these are added.
template <typename Row>
__device__ double add_rows(double sum, int64_t n, const Row& row) {
    float next[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) next[j] = j < n ? row(j) : 0.0f;
    int64_t i = 0;
    for (; i + kAhead <= n; i += kAhead) {
        float values[kAhead];
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
            values[j] = next[j];
            next[j] = i + kAhead + j < n ? row(i + kAhead + j) : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < kAhead; ++j) sum = add_square(sum, values[j]);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
        if (i + j < n) sum = add_square(sum, next[j]);
    }
    return sum;
}

__global__ void __launch_bounds__(kPlainThreads)
    plain_squares_kernel(const DeviceInput input, double* sums, int64_t* counts, int* failed) {
    const int64_t matrix = blockIdx.y;
    const int64_t column = int64_t{blockIdx.x} * kPlainThreads + threadIdx.x;
    const Planes planes(input, matrix);
    const int64_t n_planes = planes.count();
    if (column == 0) counts[matrix] = n_planes * input.ne[1];
    if (column >= input.ne[0] || n_planes * input.ne[1] == 0) return;
    double sum = 0.0;
    const auto stride = static_cast<int64_t>(input.nb[1]);
    for (int64_t i = 0; i < n_planes; ++i) {
        const auto* at = reinterpret_cast<const char*>(planes.rows(input, i) + column);
        sum = add_rows(sum, input.ne[1], [at, stride](int64_t row) {
            return *reinterpret_cast<const float*>(at + row * stride);
        });
    }
    if (!is_finite_sum(sum)) *failed = 1;
    sums[matrix * input.ne[0] + column] = sum;
}

// A block adds some columns of an expert's rows, whose places are looked up some at a time.
constexpr int kRoutedThreads = 128;

__global__ void __launch_bounds__(kRoutedThreads)
    routed_squares_kernel(const DeviceInput input, const RoutedRows sorted, double* sums,
                          int64_t* counts, int* failed) {
    __shared__ const float* found[kRoutedThreads];
    const auto expert = static_cast<int>(blockIdx.y);
    const int64_t column = int64_t{blockIdx.x} * kRoutedThreads + threadIdx.x;
    const int count = sorted.counts[expert];
    const uint32_t* rows = sorted.rows + sorted.begins[expert];
    const bool in_row = column < input.ne[0];
    double sum = 0.0;
    for (int begin = 0; begin < count; begin += kRoutedThreads) {
        const int n = min(count - begin, kRoutedThreads);
        if (static_cast<int>(threadIdx.x) < n) {
            found[threadIdx.x] = routed_row(input, rows[begin + threadIdx.x]);
        }
        __syncthreads();
        if (in_row) sum = add_rows(sum, n, [column](int64_t i) { return found[i][column]; });
        __syncthreads();  // before `found` is written again
    }
    if (column == 0) counts[expert] = count;
    if (!in_row || count == 0) return;
    if (!is_finite_sum(sum)) *failed = 1;
    sums[expert * input.ne[0] + column] = sum;
}

constexpr int kAddThreads = 256;

__global__ void __launch_bounds__(kAddThreads)
    add_kernel(const double* sums, const int64_t* counts, int64_t n_per_row, double* total_sums,
               int64_t* total_counts, int64_t n_counts) {
    const int64_t matrix = blockIdx.y;
    const int64_t column = int64_t{blockIdx.x} * kAddThreads + threadIdx.x;
    if (counts[matrix] == 0) return;
    if (column == 0 && matrix < n_counts) total_counts[matrix] += counts[matrix];
    if (column < n_per_row) {
        total_sums[matrix * n_per_row + column] += sums[matrix * n_per_row + column];
    }
}

dim3 grid_of(int64_t n_per_row, int threads, int64_t n_matrices) {
    return dim3(static_cast<unsigned>((n_per_row + threads - 1) / threads),
                static_cast<unsigned>(n_matrices));
}

}  // namespace

cudaError_t launch_squares(const DeviceInput& input, void* room, double* sums, int64_t* counts,
                           int* failed, cudaStream_t stream) {
    if (input.experts == nullptr) {
        plain_squares_kernel<<<grid_of(input.ne[0], kPlainThreads, input.n_all_matrices()),
                               kPlainThreads, 0, stream>>>(input, sums, counts, failed);
        return cudaGetLastError();
    }
    const RoutedRows sorted = routed_rows_at(room, input);
    const cudaError_t result = launch_sort_rows(input, sorted, failed, stream);
    if (result != cudaSuccess) return result;
    routed_squares_kernel<<<grid_of(input.ne[0], kRoutedThreads, input.n_all_matrices()),
                            kRoutedThreads, 0, stream>>>(input, sorted, sums, counts, failed);
    return cudaGetLastError();
}

cudaError_t launch_add(const double* sums, const int64_t* counts, int64_t n_matrices,
                       int64_t n_per_row, double* total_sums, int64_t* total_counts,
                       int64_t n_counts, cudaStream_t stream) {
    add_kernel<<<grid_of(n_per_row, kAddThreads, n_matrices), kAddThreads, 0, stream>>>(
        sums, counts, n_per_row, total_sums, total_counts, n_counts);
    return cudaGetLastError();
}

}  // namespace apex::cuda
