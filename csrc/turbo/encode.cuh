// A block by one warp, two values a lane. The steps, and the order of every sum, are those of
// encode.cpp, whose bytes these are; intrinsics keep the compiler from rounding otherwise, for
// ggml's backend is compiled with fast mathematics.
#pragma once

#include <cuda_fp16.h>

#include <cfloat>

#include "format.h"

namespace apex::turbo {

inline constexpr unsigned kWholeWarp = 0xffffffff;

__device__ __forceinline__ float sum_of_warp(float value) {
#pragma unroll
    for (int n = 16; n > 0; n /= 2) {
        value = __fadd_rn(value, __shfl_xor_sync(kWholeWarp, value, n, 32));
    }
    return value;
}

// Of 64 values: lane i holds values i and i + 32.
__device__ __forceinline__ float dot_of_warp(float2 a, float2 b) {
    return sum_of_warp(__fadd_rn(__fmul_rn(a.x, b.x), __fmul_rn(a.y, b.y)));
}

__device__ __forceinline__ float2 times(float2 a, float b) {
    return make_float2(__fmul_rn(a.x, b), __fmul_rn(a.y, b));
}

template <class Format, int kEnd = 0>
__device__ __forceinline__ float nearest_level(float value, float found) {
    if constexpr (kEnd < kHalf<Format> - 1) {
        constexpr float end = Format::kEnds[kEnd], above = Format::kLevels[kEnd + 1];
        return nearest_level<Format, kEnd + 1>(value, value > end ? above : found);
    } else {
        return found;
    }
}

// How many of the levels above the lowest are not above this one.
template <class Format, int kLevel = 1>
__device__ __forceinline__ int magnitude_of(float level) {
    if constexpr (kLevel < kHalf<Format>) {
        constexpr float other = Format::kLevels[kLevel];
        return (level >= other) + magnitude_of<Format, kLevel + 1>(level);
    } else {
        return 0;
    }
}

template <class Format>
__device__ __forceinline__ int index_of(float x, float level) {
    const int magnitude = magnitude_of<Format>(level);
    return x < 0.0f ? kHalf<Format> - 1 - magnitude : kHalf<Format> + magnitude;
}

template <class Format>
__device__ __forceinline__ float2 search(float2 y) {
    constexpr float lowest = Format::kLevels[0];
    const float steps[TURBO_N_STEPS] = {TURBO_STEPS};
    float2 best = make_float2(lowest, lowest);
    float best_score = -1.0f;
#pragma unroll
    for (int step = 0; step < TURBO_N_STEPS; ++step) {
        const float2 value = times(y, steps[step]);
        const float2 levels = make_float2(nearest_level<Format>(value.x, lowest),
                                          nearest_level<Format>(value.y, lowest));
        const float yq = dot_of_warp(y, levels);
        const float score = __fdiv_rn(__fmul_rn(yq, yq), dot_of_warp(levels, levels));
        if (score > best_score) {
            best_score = score;
            best = levels;
        }
    }
    return best;
}

// Bits of n_lanes neighbours in one word.
template <int n_lanes>
__device__ __forceinline__ uint32_t or_of_lanes(uint32_t bits) {
#pragma unroll
    for (int n = 1; n < n_lanes; n *= 2) bits |= __shfl_xor_sync(kWholeWarp, bits, n, 32);
    return bits;
}

// kBits bits of the indices of values i and i + 32 go to their words.
template <int kBits>
__device__ __forceinline__ void pack(uint32_t first, uint32_t second, int lane, uint8_t* bytes) {
    constexpr int n_groups = 4 / kBits, n_lanes = 4 * n_groups, n_words = 32 / n_lanes;
    const int shift = 4 * (lane % 4) + kBits * (lane / 4 % n_groups);
    const uint32_t words = or_of_lanes<n_lanes>(first << shift | second << (shift + 16));
    if (lane % n_lanes != 0) return;
    auto* out = reinterpret_cast<uint16_t*>(bytes);
    out[lane / n_lanes] = static_cast<uint16_t>(words & 0xffff);
    out[n_words + lane / n_lanes] = static_cast<uint16_t>(words >> 16);
}

__device__ __forceinline__ void pack(int first, int second, int lane, block_turbo2* out) {
    pack<2>(first, second, lane, out->qs);
}

__device__ __forceinline__ void pack(int first, int second, int lane, block_turbo3* out) {
    pack<2>(first & 3, second & 3, lane, out->qs);
    pack<1>(first >> 2, second >> 2, lane, out->qh);
}

__device__ __forceinline__ void pack(int first, int second, int lane, block_turbo4* out) {
    pack<4>(first, second, lane, out->qs);
}

template <class Format>
__device__ __forceinline__ void encode_by_warp(const float* x, typename Format::Block* out) {
    constexpr float lowest = Format::kLevels[0];
    constexpr float sigma = Format::kSigma;
    const int lane = threadIdx.x % 32;
    const float2 mine = make_float2(x[lane], x[lane + 32]);
    float2 y = make_float2(fabsf(mine.x), fabsf(mine.y));
    const float xx = dot_of_warp(y, y);
    float2 levels = make_float2(lowest, lowest);
    float scale = xx;
    if (xx > 0.0f && xx <= FLT_MAX) {  // the same in every lane
        y = times(y, __fdiv_rn(sigma, __fsqrt_rn(__fdiv_rn(xx, QK_TURBO))));
        levels = search<Format>(y);
        scale = fminf(__fsqrt_rn(__fdiv_rn(xx, dot_of_warp(levels, levels))), 65504.0f);
    }
    pack(index_of<Format>(mine.x, levels.x), index_of<Format>(mine.y, levels.y), lane, out);
    if (lane == 0) out->d = __half_as_ushort(__float2half_rn(scale));
}

}  // namespace apex::turbo
