// Squared inputs added up by column: a thread a column, its rows one after the other as on the CPU.
// Columns are plenty and rows are loaded ahead, so that the additions' order costs little.
#include "cuda/imatrix_squares.h"
#include "cuda/squares.cuh"

namespace apex::cuda {
namespace {

constexpr unsigned kWholeWarp = 0xffffffffu;

// One warp: few columns then already make many blocks.
constexpr int kPlainThreads = 32;

// Rows loaded before they are added: a load takes as long as many additions.
constexpr int kAhead = 16;

// Adds n rows, stride bytes apart, of which `at` points into the first.
__device__ double add_column(double sum, const char* at, int64_t stride, int64_t n) {
    float values[kAhead];
    int64_t i = 0;
    for (; i + kAhead <= n; i += kAhead, at += kAhead * stride) {
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
            values[j] = *reinterpret_cast<const float*>(at + j * stride);
        }
#pragma unroll
        for (int j = 0; j < kAhead; ++j) sum = add_square(sum, values[j]);
    }
    for (; i < n; ++i, at += stride) sum = add_square(sum, *reinterpret_cast<const float*>(at));
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
    for (int64_t i = 0; i < n_planes; ++i) {
        const auto* at = reinterpret_cast<const char*>(planes.rows(input, i) + column);
        sum = add_column(sum, at, static_cast<int64_t>(input.nb[1]), input.ne[1]);
    }
    if (!is_finite_sum(sum)) *failed = 1;
    sums[matrix * input.ne[0] + column] = sum;
}

// A block looks through all rows for those of its expert, some at a time, and adds them as found.
constexpr int kRoutedThreads = 128;
constexpr int kRoutedWarps = kRoutedThreads / 32;

// Writes the rows of this thread's block of rows that go to the expert, in order; returns how many.
__device__ int find_rows(const DeviceInput& input, uint32_t begin, uint32_t n, int expert,
                         int n_experts, const float** found, int* failed) {
    __shared__ int n_of_warp[kRoutedWarps];
    const uint32_t i = begin + threadIdx.x;
    const int number = i < n ? expert_of(input, i) : -1;
    if (i < n && (number < 0 || number >= n_experts)) *failed = 1;
    const unsigned votes = __ballot_sync(kWholeWarp, number == expert);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) n_of_warp[warp] = __popc(votes);
    __syncthreads();
    int before = __popc(votes & ((1u << lane) - 1)), all = 0;
    for (int w = 0; w < kRoutedWarps; ++w) {
        if (w < warp) before += n_of_warp[w];
        all += n_of_warp[w];
    }
    if (number == expert) found[before] = routed_row(input, i);
    __syncthreads();
    return all;
}

__global__ void __launch_bounds__(kRoutedThreads)
    routed_squares_kernel(const DeviceInput input, double* sums, int64_t* counts, int* failed) {
    __shared__ const float* found[kRoutedThreads];
    const auto expert = static_cast<int>(blockIdx.y), n_experts = static_cast<int>(gridDim.y);
    const int64_t column = int64_t{blockIdx.x} * kRoutedThreads + threadIdx.x;
    const uint32_t n = n_routed_rows(input);
    const bool in_row = column < input.ne[0];
    double sum = 0.0;
    int64_t count = 0;
    for (uint32_t begin = 0; begin < n; begin += kRoutedThreads) {
        const int n_found = find_rows(input, begin, n, expert, n_experts, found, failed);
        for (int i = 0; in_row && i < n_found; ++i) sum = add_square(sum, found[i][column]);
        count += n_found;
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

cudaError_t launch_squares(const DeviceInput& input, double* sums, int64_t* counts, int* failed,
                           cudaStream_t stream) {
    if (input.experts == nullptr) {
        plain_squares_kernel<<<grid_of(input.ne[0], kPlainThreads, input.n_all_matrices()),
                               kPlainThreads, 0, stream>>>(input, sums, counts, failed);
    } else {
        routed_squares_kernel<<<grid_of(input.ne[0], kRoutedThreads, input.n_all_matrices()),
                                kRoutedThreads, 0, stream>>>(input, sums, counts, failed);
    }
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
