// Rows of logits added up: a block a row, 16 lanes that are each added up in order.
#include "cuda/softmax.cuh"
#include "cuda/softmax_rows.h"

namespace apex::cuda {
namespace {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

// --- the largest entry -------------------------------------------------------------------------

constexpr int kTopThreads = 512;

__device__ Top best_of_warp(Top top) {
    for (int step = kWarp / 2; step > 0; step /= 2) {
        top = better(top, {__shfl_down_sync(kWholeWarp, top.value, step),
                           __shfl_down_sync(kWholeWarp, top.token, step)});
    }
    return top;
}

__global__ void __launch_bounds__(kTopThreads)
    find_top_kernel(const float* rows, int64_t n_vocab, const int32_t* targets, SoftmaxSums* sums) {
    __shared__ Top tops[kTopThreads / kWarp];
    const float* row = rows + blockIdx.x * n_vocab;
    Top top = no_top();
    bool is_finite = true;
#pragma unroll 8
    for (int64_t i = threadIdx.x; i < n_vocab; i += kTopThreads) {
        const float value = row[i];
        is_finite = is_finite && is_finite_logit(value);
        top = better(top, {value, static_cast<int32_t>(i)});
    }
    const bool all_finite = __syncthreads_and(is_finite);
    top = best_of_warp(top);
    if (threadIdx.x % kWarp == 0) tops[threadIdx.x / kWarp] = top;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 1; i < kTopThreads / kWarp; ++i) top = better(top, tops[i]);
    SoftmaxSums& out = sums[blockIdx.x];
    out.top = top.token == kNoToken ? 0 : top.token;
    out.max = row[out.top];
    out.target = row[targets[blockIdx.x]];
    out.is_finite = all_finite;
    out.sum = out.difference = 0.0;  // the whole is copied, whichever of them compare_kernel fills
}

// --- the sums -----------------------------------------------------------------------------------

// Eight warps compute a tile's terms while two more add up those of the tile before: an addition
// waits for the one before it in its lane, the terms wait for nothing.
constexpr int kMakers = 256;
constexpr int kAdders = 64;
constexpr int kTile = 1024;
constexpr int kSumsOfTile = 3;
constexpr int kBuffers = 2;
constexpr int kSharedBytes = kBuffers * kSumsOfTile * kTile * static_cast<int>(sizeof(double));

using Tile = double[kSumsOfTile][kTile];

__device__ void make_terms(const Position& position, int64_t begin, int64_t n_vocab, int64_t n,
                           Tile& tile) {
#pragma unroll
    for (int j = 0; j < kTile / kMakers; ++j) {
        const int at = j * kMakers + static_cast<int>(threadIdx.x);
        if (begin + at >= n) break;
        const Terms terms = terms_of(position, begin + at, n_vocab);
        tile[0][at] = terms.weight;
        tile[1][at] = terms.difference;
        tile[2][at] = terms.mass;
    }
}

// One lane of one of the sums.
__device__ double add_terms(const double* terms, int lane, int n, double sum) {
#pragma unroll 8
    for (int i = lane; i < n; i += kSoftmaxLanes) sum += terms[i];
    return sum;
}

__global__ void __launch_bounds__(kMakers + kAdders) compare_kernel(const CompareJob job) {
    extern __shared__ double shared[];
    __shared__ double lanes[kSumsOfTile][kSoftmaxLanes];
    auto* tiles = reinterpret_cast<Tile*>(shared);
    const int64_t row = blockIdx.x, offset = row * job.n_vocab;
    Position position;
    position.reference = job.reference == nullptr ? nullptr : job.reference + offset;
    position.candidate = job.candidate == nullptr ? nullptr : job.candidate + offset;
    position.reference_max =
        job.reference == nullptr || job.is_coded ? 0.0 : job.reference_sums[row].max;
    position.candidate_max = job.candidate == nullptr ? 0.0 : job.candidate_sums[row].max;
    position.floor = job.is_coded ? kCodedFloor : kNoFloor;

    const bool makes = threadIdx.x < kMakers;
    const int adder = static_cast<int>(threadIdx.x) - kMakers;
    const bool adds = adder >= 0 && adder < kSumsOfTile * kSoftmaxLanes;
    const int which = adds ? adder / kSoftmaxLanes : 0, lane = adder % kSoftmaxLanes;
    const int64_t n = kernels::padded_lanes(job.n_vocab);
    const int64_t n_tiles = (n + kTile - 1) / kTile;
    double sum = 0.0;
    for (int64_t i = 0; i <= n_tiles; ++i) {
        if (makes && i < n_tiles) {
            make_terms(position, i * kTile, job.n_vocab, n, tiles[i % kBuffers]);
        }
        if (adds && i > 0) {
            const int64_t left = n - (i - 1) * kTile;
            sum = add_terms(tiles[(i - 1) % kBuffers][which], lane,
                            left < kTile ? static_cast<int>(left) : kTile, sum);
        }
        __syncthreads();
    }
    if (adds) lanes[which][lane] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    if (job.reference != nullptr) job.reference_sums[row].sum = add_lanes(lanes[0]);
    if (job.candidate == nullptr) return;
    job.candidate_sums[row].difference = add_lanes(lanes[1]);
    job.candidate_sums[row].sum = add_lanes(lanes[2]);
}

}  // namespace

cudaError_t launch_find_top(const float* rows, int64_t n_rows, int64_t n_vocab,
                            const int32_t* targets, SoftmaxSums* sums, cudaStream_t stream) {
    find_top_kernel<<<static_cast<unsigned>(n_rows), kTopThreads, 0, stream>>>(rows, n_vocab,
                                                                               targets, sums);
    return cudaGetLastError();
}

cudaError_t launch_compare(const CompareJob& job, cudaStream_t stream) {
    const cudaError_t set = cudaFuncSetAttribute(
        compare_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
    if (set != cudaSuccess) return set;
    compare_kernel<<<static_cast<unsigned>(job.n_rows), kMakers + kAdders, kSharedBytes, stream>>>(
        job);
    return cudaGetLastError();
}

}  // namespace apex::cuda
