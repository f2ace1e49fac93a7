// The kernel around a type's steps: a thread per sub-block, the threads of a super-block within one
// warp. Not compiled for the host; super_block.cuh has the same steps as loops.
#pragma once

#include "cuda/rows_job.h"
#include "cuda/super_block.cuh"

namespace apex::cuda {

inline constexpr int kThreads = 128;
inline constexpr unsigned kWholeWarp = 0xffffffffu;

template <typename Type>
inline constexpr int kBlocksPerGroup = kThreads / Type::kSubBlocks;  // quantized blocks

static __device__ const CodebookCells kCodebookCells;

__device__ __forceinline__ void widen_pair(uint32_t pair, Source source, float* x) {
    if (source == Source::bf16) {
        x[0] = __uint_as_float(pair << 16);
        x[1] = __uint_as_float(pair & 0xffff0000u);
    } else {
        x[0] = __half2float(__ushort_as_half(static_cast<uint16_t>(pair & 0xffffu)));
        x[1] = __half2float(__ushort_as_half(static_cast<uint16_t>(pair >> 16)));
    }
}

template <int N>
__device__ __forceinline__ void load_weights(const RowsJob& job, int64_t first, float (&x)[N]) {
    if (job.source == Source::f32) {
        const auto* from =
            reinterpret_cast<const float4*>(static_cast<const float*>(job.src) + first);
#pragma unroll
        for (int i = 0; i < N / 4; ++i) {
            const float4 four = from[i];
            x[4 * i] = four.x;
            x[4 * i + 1] = four.y;
            x[4 * i + 2] = four.z;
            x[4 * i + 3] = four.w;
        }
        return;
    }
    const auto* from =
        reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(job.src) + first);
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
        const uint4 eight = from[i];
        widen_pair(eight.x, job.source, x + 8 * i);
        widen_pair(eight.y, job.source, x + 8 * i + 2);
        widen_pair(eight.z, job.source, x + 8 * i + 4);
        widen_pair(eight.w, job.source, x + 8 * i + 6);
    }
}

// The super-block's sum of squares in ggml's order: each thread goes on where the one before ended.
template <typename Type>
__device__ __forceinline__ float relay_squares(int j, const float (&x)[Type::kLength]) {
    float sum = 0.0f;
#pragma unroll 1
    for (int k = 0; k < Type::kSubBlocks; ++k) {
        if (j == k) sum = add_squares<Type::kLength>(sum, x);
        sum = __shfl_sync(kWholeWarp, sum, k, Type::kSubBlocks);
    }
    return sum;
}

template <typename Type>
__device__ __forceinline__ FitSums relay_fit(int j, const typename Type::Thread& t) {
    FitSums sums;
#pragma unroll 1
    for (int k = 0; k < Type::kSubBlocks; ++k) {
        if (j == k) sums = Type::add_fit(t, sums);
        sums.qx = __shfl_sync(kWholeWarp, sums.qx, k, Type::kSubBlocks);
        sums.q2 = __shfl_sync(kWholeWarp, sums.q2, k, Type::kSubBlocks);
    }
    return sums;
}

// Blocks lie side by side in dst. Every group starts at a multiple of 16 bytes.
template <typename Type>
__device__ __forceinline__ void copy_out(const RowsJob& job, int64_t first, const uint8_t* blocks) {
    constexpr int kSize = sizeof(typename Type::Block);
    static_assert(kBlocksPerGroup<Type> * kSize % 16 == 0, "groups must start aligned");
    const int64_t left = job.n_blocks - first;
    const int count = left < kBlocksPerGroup<Type> ? static_cast<int>(left) : kBlocksPerGroup<Type>;
    auto* to = static_cast<uint8_t*>(job.dst) + first * kSize;
    const int n_words = count * kSize / 4;
    for (int i = threadIdx.x; i < n_words; i += kThreads) {
        reinterpret_cast<uint32_t*>(to)[i] = reinterpret_cast<const uint32_t*>(blocks)[i];
    }
    for (int i = 4 * n_words + threadIdx.x; i < count * kSize; i += kThreads) to[i] = blocks[i];
}

template <typename Type>
__global__ void __launch_bounds__(kThreads) quantize_kernel(const RowsJob job) {
    constexpr int kPerGroup = kBlocksPerGroup<Type>;
    constexpr int kSize = sizeof(typename Type::Block);
    __shared__ typename Type::Scratch scratch[kPerGroup];
    __shared__ alignas(16) uint8_t blocks[kPerGroup * kSize];
    __shared__ CodebookCells codebook;
    extern __shared__ float lanes[];

    if constexpr (Type::kCodebook) {
        constexpr int kWords = sizeof(CodebookCells) / 4;
        for (int i = threadIdx.x; i < kWords; i += kThreads) {
            reinterpret_cast<uint32_t*>(&codebook)[i] =
                reinterpret_cast<const uint32_t*>(&kCodebookCells)[i];
        }
        __syncthreads();
    }
    const Tables tables{job.grid, &codebook};
    const int j = threadIdx.x % Type::kSubBlocks;
    const int slot = threadIdx.x / Type::kSubBlocks;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kPerGroup;
    // Threads past the end repeat the last block: all take part in the exchanges.
    const int64_t number = first + slot < job.n_blocks ? first + slot : job.n_blocks - 1;
    const int64_t in_row = number % job.blocks_per_row * Type::kSubBlocks + j;
    typename Type::Scratch& s = scratch[slot];
    auto* out = reinterpret_cast<typename Type::Block*>(blocks + slot * kSize);

    typename Type::Thread t;
    t.overflow = false;
    load_weights(job, (number * Type::kSubBlocks + j) * Type::kLength, t.x);
    float sum = 0.0f;
    if constexpr (Type::kSums) sum = relay_squares<Type>(j, t.x);
    Type::find(t, j, job.imatrix + in_row * Type::kLength, sum,
               Strided<kThreads>{lanes + threadIdx.x}, tables, s);
    __syncwarp();
    Type::combine(t, j, s);
    __syncwarp();
    FitSums fit;
    if constexpr (Type::kFits) fit = relay_fit<Type>(j, t);
    Type::choose(t, j, fit, tables, s);
    __syncwarp();
    Type::pack(j, s, tables, out);
    if (t.overflow) job.overflowed[number / job.blocks_per_row] = 1;
    __syncthreads();
    copy_out<Type>(job, first, blocks);
}

template <typename Type>
cudaError_t launch_rows(const RowsJob& job, cudaStream_t stream) {
    constexpr int kPerGroup = kBlocksPerGroup<Type>;
    constexpr int kLaneBytes = Type::kLaneFloats * kThreads * static_cast<int>(sizeof(float));
    if (kLaneBytes > 0) {
        const cudaError_t set = cudaFuncSetAttribute(
            quantize_kernel<Type>, cudaFuncAttributeMaxDynamicSharedMemorySize, kLaneBytes);
        if (set != cudaSuccess) return set;
    }
    const auto groups = static_cast<unsigned>((job.n_blocks + kPerGroup - 1) / kPerGroup);
    quantize_kernel<Type><<<groups, kThreads, kLaneBytes, stream>>>(job);
    return cudaGetLastError();
}

}  // namespace apex::cuda

// Makes the kernels of a type that takes rows with and without a matrix.
#define APEX_INSTANTIATE_BOTH(Type)                                        \
    template cudaError_t apex::cuda::launch_rows<apex::cuda::Type<true>>(  \
        const apex::cuda::RowsJob&, cudaStream_t);                         \
    template cudaError_t apex::cuda::launch_rows<apex::cuda::Type<false>>( \
        const apex::cuda::RowsJob&, cudaStream_t)
#define APEX_INSTANTIATE_ONE(Type, with_matrix)                                  \
    template cudaError_t apex::cuda::launch_rows<apex::cuda::Type<with_matrix>>( \
        const apex::cuda::RowsJob&, cudaStream_t)
