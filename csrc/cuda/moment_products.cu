// Second moments of inputs: a block of threads a tile of a matrix's triangle (moment_products.cuh).
#include "cuda/moment_products.h"

#include <algorithm>

#include "cuda/moment_products.cuh"
#include "cuda/routed_rows.h"

namespace apex::cuda {
namespace {

struct MomentJob {
    DeviceInput input;
    MomentsOnDevice sums;
    bool in_part;
    bool is_aligned;
};

// Does every row begin where four floats are read at once?
bool rows_are_aligned(const DeviceInput& input) {
    size_t places = reinterpret_cast<size_t>(input.data);
    for (const size_t step : {input.nb[1], input.nb[2], input.nb[3]}) places |= step;
    return places % 16 == 0;
}

__device__ __forceinline__ double* sums_of(const MomentJob& job, int64_t matrix) {
    return (job.in_part ? job.sums.part : job.sums.rest) + matrix * packed_size(job.input.ne[0]);
}

__device__ __forceinline__ MomentPlace place_of(const MomentJob& job) {
    return {MomentTile(blockIdx.x), job.input.ne[0], job.is_aligned};
}

// The i-th row that meets a matrix.
struct PlainRow {
    const MomentJob& job;
    int64_t matrix;

    __device__ const float* operator()(int i) const {
        const Planes planes(job.input, opaque(matrix));  // takes fewer registers than keeping it
        const auto per_plane = static_cast<int>(job.input.ne[1]);
        const auto* plane = reinterpret_cast<const char*>(planes.rows(job.input, i / per_plane));
        const int64_t at = i % per_plane * static_cast<int64_t>(job.input.nb[1]);
        return reinterpret_cast<const float*>(plane + at);
    }
};

__host__ __device__ int n_plain_rows(const DeviceInput& input, int64_t matrix) {
    return static_cast<int>(Planes(input, matrix).count() * input.ne[1]);
}

__global__ void __launch_bounds__(kMomentThreads, 2) plain_moments_kernel(const MomentJob job) {
    __shared__ MomentMemory memory;
    const int64_t matrix = blockIdx.y;
    add_moment_products(Block{}, PlainRow{job, matrix}, n_plain_rows(job.input, matrix),
                        place_of(job), sums_of(job, matrix), memory);
}

// The first matrix: groups of rows from `first` on, a row of blocks each.
__global__ void __launch_bounds__(kMomentThreads, 2)
    kept_moments_kernel(const MomentJob job, int first, float* kept) {
    __shared__ MomentMemory memory;
    const int64_t at = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
    keep_moment_products(
        Block{}, PlainRow{job, 0}, first + static_cast<int>(blockIdx.y * kProductRows),
        n_plain_rows(job.input, 0), place_of(job), memory, kept + at * kMomentElements);
}

__global__ void __launch_bounds__(kMomentThreads)
    add_kept_kernel(const MomentJob job, const float* kept, int n_groups) {
    add_kept_products(static_cast<int>(threadIdx.x), static_cast<int>(blockIdx.y), place_of(job),
                      kept + int64_t{blockIdx.x} * kMomentElements, n_groups,
                      int64_t{gridDim.x} * kMomentElements, sums_of(job, 0));
}

__global__ void __launch_bounds__(kMomentThreads, 2)
    routed_moments_kernel(const MomentJob job, const RoutedRows sorted) {
    __shared__ MomentMemory memory;
    const int64_t expert = blockIdx.y;
    const uint32_t* numbers = sorted.rows + sorted.begins[expert];
    const auto row = [&](int i) { return routed_row(job.input, numbers[i]); };
    add_moment_products(Block{}, row, sorted.counts[expert], place_of(job), sums_of(job, expert),
                        memory);
}

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    moment_squares_kernel(const MomentJob job, const DeviceSums squares) {
    const int64_t matrix = blockIdx.y, count = squares.counts[matrix];
    const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (count == 0) return;
    if (column == 0) {
        job.sums.counts[matrix] += count;
        if (job.in_part) job.sums.part_counts[matrix] += count;
    }
    if (column >= job.input.ne[0]) return;
    add_moment_squares(column, squares.sums[matrix * job.input.ne[0] + column],
                       sums_of(job, matrix));
}

__global__ void __launch_bounds__(kThreads)
    round_kernel(const double* half, const double* other, int64_t n, float* to) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += step) {
        to[i] = static_cast<float>(other == nullptr ? half[i] : half[i] + other[i]);
    }
}

// Groups of rows that are multiplied side by side, where one matrix has few tiles.
int groups_at_once(const DeviceInput& input) {
    constexpr int64_t kBlocks = 1024;  // some times what a GPU holds
    if (input.experts != nullptr || input.n_all_matrices() != 1) return 1;
    return static_cast<int>(std::max<int64_t>(1, kBlocks / MomentTile::count(input.ne[0])));
}

void launch_kept_moments(const MomentJob& job, float* kept, cudaStream_t stream) {
    const auto tiles = static_cast<unsigned>(MomentTile::count(job.input.ne[0]));
    const int n_rows = n_plain_rows(job.input, 0), rows = static_cast<int>(kProductRows);
    const int step = groups_at_once(job.input) * rows;
    for (int first = 0; first < n_rows; first += step) {
        const int n_groups = (std::min(n_rows - first, step) + rows - 1) / rows;
        const dim3 blocks(tiles, static_cast<unsigned>(n_groups));
        kept_moments_kernel<<<blocks, kMomentThreads, 0, stream>>>(job, first, kept);
        add_kept_kernel<<<dim3(tiles, kMomentSide), kMomentThreads, 0, stream>>>(job, kept,
                                                                                 n_groups);
    }
}

}  // namespace

size_t moments_room_bytes(const DeviceInput& input) {
    if (input.experts != nullptr) return routed_rows_bytes(input);
    const int at_once = groups_at_once(input);
    return at_once == 1 ? 0
                        : static_cast<size_t>(at_once * MomentTile::count(input.ne[0])) *
                              kMomentElements * sizeof(float);
}

cudaError_t launch_moments(const DeviceInput& input, const DeviceSums& squares, bool in_part,
                           void* room, const MomentsOnDevice& sums, int* failed,
                           cudaStream_t stream) {
    const MomentJob job{input, sums, in_part, rows_are_aligned(input)};
    const auto n_matrices = static_cast<unsigned>(input.n_all_matrices());
    const dim3 tiles(static_cast<unsigned>(MomentTile::count(input.ne[0])), n_matrices);
    if (groups_at_once(input) > 1) {
        launch_kept_moments(job, static_cast<float*>(room), stream);
    } else if (input.experts == nullptr) {
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

cudaError_t launch_round(const double* half, const double* other, int64_t n, float* to,
                         cudaStream_t stream) {
    constexpr int kBlocks = 1024;
    round_kernel<<<kBlocks, kThreads, 0, stream>>>(half, other, n, to);
    return cudaGetLastError();
}

}  // namespace apex::cuda
