// Second moments of inputs: a block of threads a tile of a matrix's triangle (moment_products.cuh).
#include "cuda/moment_products.cuh"
#include "cuda/moment_products.h"
#include "cuda/routed_rows.h"

namespace apex::cuda {
namespace {

struct MomentJob {
    DeviceInput input;
    MomentsOnDevice totals;
    bool in_part;
    bool is_aligned;
};

// Does every row begin where four floats are read at once?
bool rows_are_aligned(const DeviceInput& input) {
    size_t places = reinterpret_cast<size_t>(input.data);
    for (const size_t step : {input.nb[1], input.nb[2], input.nb[3]}) places |= step;
    return places % 16 == 0;
}

__device__ __forceinline__ MomentTotals totals_of(const MomentJob& job, int64_t matrix) {
    const int64_t at = matrix * packed_size(job.input.ne[0]);
    return {job.totals.total + at, job.in_part ? job.totals.part + at : nullptr};
}

__device__ __forceinline__ MomentPlace place_of(const MomentJob& job) {
    return {MomentTile(blockIdx.x), job.input.ne[0], job.is_aligned};
}

__global__ void __launch_bounds__(kMomentThreads, 2) plain_moments_kernel(const MomentJob job) {
    __shared__ MomentMemory memory;
    const int64_t matrix = blockIdx.y;
    const auto per_plane = static_cast<int>(job.input.ne[1]);
    const auto row = [&](int i) {
        const Planes again(job.input, opaque(matrix));  // takes fewer registers than keeping it
        const auto* plane = reinterpret_cast<const char*>(again.rows(job.input, i / per_plane));
        const int64_t at = i % per_plane * static_cast<int64_t>(job.input.nb[1]);
        return reinterpret_cast<const float*>(plane + at);
    };
    const auto n_rows = static_cast<int>(Planes(job.input, matrix).count()) * per_plane;
    add_moment_products(Block{}, row, n_rows, place_of(job), totals_of(job, matrix), memory);
}

__global__ void __launch_bounds__(kMomentThreads, 2)
    routed_moments_kernel(const MomentJob job, const RoutedRows sorted) {
    __shared__ MomentMemory memory;
    const int64_t expert = blockIdx.y;
    const uint32_t* numbers = sorted.rows + sorted.begins[expert];
    const auto row = [&](int i) { return routed_row(job.input, numbers[i]); };
    add_moment_products(Block{}, row, sorted.counts[expert], place_of(job), totals_of(job, expert),
                        memory);
}

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    moment_squares_kernel(const MomentJob job, const DeviceSums squares) {
    const int64_t matrix = blockIdx.y, count = squares.counts[matrix];
    const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (count == 0) return;
    if (column == 0) {
        job.totals.counts[matrix] += count;
        if (job.in_part) job.totals.part_counts[matrix] += count;
    }
    if (column >= job.input.ne[0]) return;
    add_moment_squares(column, squares.sums[matrix * job.input.ne[0] + column],
                       totals_of(job, matrix));
}

__global__ void __launch_bounds__(kThreads) round_kernel(const double* from, int64_t n, float* to) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += step) {
        to[i] = static_cast<float>(from[i]);
    }
}

}  // namespace

cudaError_t launch_moments(const DeviceInput& input, const DeviceSums& squares, bool in_part,
                           void* room, const MomentsOnDevice& totals, int* failed,
                           cudaStream_t stream) {
    const MomentJob job{input, totals, in_part, rows_are_aligned(input)};
    const auto n_matrices = static_cast<unsigned>(input.n_all_matrices());
    const dim3 tiles(static_cast<unsigned>(MomentTile::count(input.ne[0])), n_matrices);
    if (input.experts == nullptr) {
        plain_moments_kernel<<<tiles, kMomentThreads, 0, stream>>>(job);
    } else {
        const RoutedRows sorted = routed_rows_at(room, input);
        const cudaError_t result = launch_sort_rows(input, sorted, failed, stream);
        if (result != cudaSuccess) return result;
        routed_moments_kernel<<<tiles, kMomentThreads, 0, stream>>>(job, sorted);
    }
    const dim3 columns(static_cast<unsigned>((input.ne[0] + kThreads - 1) / kThreads), n_matrices);
    moment_squares_kernel<<<columns, kThreads, 0, stream>>>(job, squares);
    return cudaGetLastError();
}

cudaError_t launch_round(const double* from, int64_t n, float* to, cudaStream_t stream) {
    constexpr int kBlocks = 1024;
    round_kernel<<<kBlocks, kThreads, 0, stream>>>(from, n, to);
    return cudaGetLastError();
}

}  // namespace apex::cuda
