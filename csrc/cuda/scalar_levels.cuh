// One block of a scalar format for one row (moments/scalar_block.h): levels nearest to weights, the
// errors they leave, and d and dm by least squares. The CPU's operations in the CPU's order.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/thread_block.cuh"
#include "moments/scalar_format.h"

namespace apex::cuda {

// low or high where value lies beyond; NaN stays, as with the CPU's comparisons.
APEX_BLOCK float bounded(float value, float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(value) : "f"(value), "f"(low));
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(value) : "f"(value), "f"(high));
    return value;
#else
    value = value < low ? low : value;
    return value > high ? high : value;
#endif
}

// To the nearest integer, ties to even; |value| is brought below 2^21 first.
APEX_BLOCK float rounded(float value) {
    return (bounded(value, -2097152.0f, 2097152.0f) + kMagic) - kMagic;
}

// 1 / value, 0 where it is 0.
APEX_BLOCK float inverse(float value) {
    return value == 0.0f ? 0.0f : 1.0f / value;
}

// moments/scalar_format.h, kCodeBook
APEX_BLOCK float code_book(int i) {
    constexpr float kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};
    return kLevels[i];
}

template <bool kBook>
APEX_BLOCK float nearest_level(const ScalarFormat& format, float quotient) {
    if (!kBook) {
        return bounded(rounded(quotient), static_cast<float>(format.min_level),
                       static_cast<float>(format.max_level));
    }
    float level = code_book(0);
    APEX_UNROLL
    for (int i = 0; i < 15; ++i) {
        const float low = code_book(i), high = code_book(i + 1);
        level += quotient > 0.5f * (low + high) ? high - low : 0.0f;
    }
    return level;
}

template <bool kBook>
APEX_BLOCK uint8_t code_of(const ScalarFormat& format, float level) {
    if (!kBook) return static_cast<uint8_t>(static_cast<int>(level) - format.min_level);
    int code = 0;
    while (code < 15 && code_book(code) < level) ++code;
    return static_cast<uint8_t>(code);
}

// An error of column j takes its share of the block's later columns.
template <int kBlock>
APEX_BLOCK void make_good(const float* root, int j, float error, float (&values)[kBlock]) {
    const float* row = root + j * kBlock;
    APEX_UNROLL
    for (int begin = (j + 1) / 4 * 4; begin < kBlock; begin += 4) {
#if defined(__CUDA_ARCH__)
        const float4 four = *reinterpret_cast<const float4*>(row + begin);
        const float factors[4] = {four.x, four.y, four.z, four.w};
#else
        const float* factors = row + begin;
#endif
        APEX_UNROLL
        for (int k = 0; k < 4; ++k) {
            if (begin + k > j) values[begin + k] -= error * factors[k];
        }
    }
}

// Levels of a block column by column, each error made good in its later columns; values are
// changed. Returns the sum of squared errors, each in units of its pivot. codes receives levels,
// `stride` apart.
template <int kBlock, bool kBook>
APEX_BLOCK float quantize_block(const ScalarFormat& format, const float* root, const float* pivots,
                                float (&values)[kBlock], float scale, float minimum, int8_t* codes,
                                int stride) {
    const float inverse_scale = inverse(scale);
    float cost = 0.0f;
    APEX_UNROLL
    for (int j = 0; j < kBlock; ++j) {
        const float level = nearest_level<kBook>(format, (values[j] + minimum) * inverse_scale);
        const float error = (values[j] - (scale * level - minimum)) * pivots[j];
        cost += error * error;
        codes[j * stride] = static_cast<int8_t>(level);
        make_good<kBlock>(root, j, error, values);
    }
    return cost;
}

APEX_BLOCK float read_half(const uint8_t* stored) {
    return float_of_half(static_cast<uint16_t>(stored[0] | stored[1] << 8));
}

// To an even address. Not byte by byte: ptxas of CUDA 13.0 takes the low byte of a register that
// holds a half for a conversion of the number to an integer of 8 bits (F2I.U8.F16), and stores 0.
APEX_BLOCK void write_half(float value, uint8_t* stored) {
    const uint16_t half = half_of(value);
#if defined(__CUDA_ARCH__)
    *reinterpret_cast<uint16_t*>(stored) = half;
#else
    memcpy(stored, &half, sizeof(half));
#endif
}

// Sums over a super-block of levels a, minima b and the gradient g.
struct FitSums {
    float aa, ab, bb, ga, gb;
};

struct Fit {
    bool better;
    float d, dm;
    float x, y;  // what d and dm gain; 0 where it is no better
};

APEX_BLOCK Fit fit_scales(bool has_minimum, float d, float dm, const FitSums& of) {
    float d_step = of.ga * inverse(of.aa), dm_step = 0.0f;
    if (has_minimum) {
        const float determinant = of.aa * of.bb - of.ab * of.ab;
        const bool regular = determinant > 1e-6f * of.aa * of.bb;
        const float inverted = regular ? inverse(determinant) : 0.0f;
        d_step = regular ? (of.ga * of.bb - of.gb * of.ab) * inverted : d_step;
        dm_step = regular ? (of.gb * of.aa - of.ga * of.ab) * inverted : 0.0f;
    }
    const float new_d = float_of_half(half_of(d + d_step));
    float new_dm = has_minimum ? float_of_half(half_of(dm + dm_step)) : dm;
    new_dm = new_dm < 0.0f ? dm : new_dm;
    const float x = new_d - d, y = new_dm - dm;
    const float gain =
        2.0f * (x * of.ga + y * of.gb) - (x * x * of.aa + 2.0f * x * y * of.ab + y * y * of.bb);
    if (!(gain > 0.0f)) return {false, d, dm, 0.0f, 0.0f};
    return {true, new_d, new_dm, x, y};
}

}  // namespace apex::cuda
