// What the quantizers need of arithmetic, the same on a GPU and (as plain C++) on a CPU.
//
// Everything under csrc/cuda that ends in .cuh, device_kernel.cuh excepted, is also compiled by the
// host compiler: the test program twin_vs_ggml runs the per-thread algorithms there and compares
// their bytes with ggml's. Both builds keep IEEE arithmetic: no fused multiply-add, no fast math.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#define APEX_HD __host__ __device__ __forceinline__
#define APEX_UNROLL _Pragma("unroll")
#define APEX_ROLLED _Pragma("unroll 1")
#else
#define APEX_HD inline
#define APEX_UNROLL
#define APEX_ROLLED
#endif

namespace apex::cuda {

inline constexpr int kSuperBlock = 256;        // QK_K
inline constexpr float kGroupMaxEps = 1e-15f;  // GROUP_MAX_EPS in ggml-quants.c
inline constexpr float kMagic = 12582912.0f;   // 1.5 * 2^23: adding it rounds to an integer
inline constexpr float kInRange = 4194304.0f;  // 2^22: up to here it does so exactly

APEX_HD int32_t bits_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

APEX_HD float float_of(int32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

APEX_HD float absolute(float x) {
    return float_of(bits_of(x) & 0x7fffffff);
}

// Of two numbers, neither NaN.
APEX_HD float smaller(float a, float b) {
#if defined(__CUDA_ARCH__)
    return fminf(a, b);
#else
    return a < b ? a : b;
#endif
}

APEX_HD float larger(float a, float b) {
#if defined(__CUDA_ARCH__)
    return fmaxf(a, b);
#else
    return a > b ? a : b;
#endif
}

APEX_HD int32_t clamp(int32_t x, int32_t low, int32_t high) {
    const int32_t capped = x < high ? x : high;
    return capped > low ? capped : low;
}

// ggml's nearest_int, garbage beyond 2^22 included. A NaN of x86 arithmetic has the quiet bit and
// no other payload, which gives 0 there; a GPU's NaN has all bits set.
APEX_HD int32_t nearest_int(float x) {
    const int32_t rounded = (bits_of(x + kMagic) & 0x007fffff) - 0x00400000;
    return x == x ? rounded : 0;
}

// float(clamp(nearest_int(x), low, high)) for |x| <= 2^22.
APEX_HD float nearest_clamped(float x, float low, float high) {
    return smaller(larger(x + kMagic, kMagic + low), kMagic + high) - kMagic;
}

// ggml_compute_fp32_to_fp16 except for the payload of NaN.
APEX_HD uint16_t half_of(float x) {
#if defined(__CUDA_ARCH__)
    return __half_as_ushort(__float2half_rn(x));
#else
    const auto bits = static_cast<uint32_t>(bits_of(x));
    const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t half;
    if (magnitude > 0x7f800000u) {
        half = 0x7e00;
    } else if (magnitude >= 0x477ff000u) {  // 65520: halfway to 2^16
        half = 0x7c00;
    } else if (magnitude < 0x38800000u) {  // 2^-14: the sum with 1/2 is rounded to 2^-24
        half = static_cast<uint32_t>(bits_of(absolute(x) + 0.5f)) - 0x3f000000u;
    } else {
        half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    }
    return static_cast<uint16_t>(sign | half);
#endif
}

APEX_HD float float_of_half(uint16_t half) {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(half));
#else
    const int32_t sign = (half & 0x8000) << 16;
    const int32_t magnitude = (half & 0x7fff) << 13;
    const int32_t exponent = magnitude & 0x0f800000;
    if (exponent == 0x0f800000) return float_of(sign | (magnitude + (224 << 23)));
    if (exponent != 0) return float_of(sign | (magnitude + (112 << 23)));
    const float subnormal = float_of(magnitude + (113 << 23)) - 6.103515625e-05f;  // 2^-14
    return float_of(sign | bits_of(subnormal));
#endif
}

// An array of one thread in memory shared by Stride threads: element i of all threads side by side,
// so that a warp's accesses never meet in a bank whatever index each lane takes.
template <int Stride>
struct Strided {
    float* at;

    APEX_HD float& operator[](int i) const { return at[i * Stride]; }
    APEX_HD Strided from(int i) const { return {at + i * Stride}; }
};

// What ggml computes before the searches.

template <int N, typename X>
APEX_HD float add_squares(float sum, const X& x) {
    APEX_UNROLL
    for (int i = 0; i < N; ++i) sum += x[i] * x[i];
    return sum;
}

// imatrix * sqrt(sigma2 + x * x), the weight of all searches with a matrix (Q6_K excepted).
APEX_HD float importance_weight(float x, float imatrix, float sigma2) {
    return imatrix * sqrtf(sigma2 + x * x);
}

template <int N>
APEX_HD float serial_sum(const float (&w)[N]) {
    float sum = 0.0f;
    APEX_UNROLL
    for (int i = 0; i < N; ++i) sum += w[i];
    return sum;
}

// The value of largest magnitude, the first of equals.
template <int N>
APEX_HD float largest_magnitude(const float (&x)[N], float* magnitude) {
    float amax = 0.0f, value = 0.0f;
    APEX_UNROLL
    for (int i = 0; i < N; ++i) {
        const float ax = absolute(x[i]);
        if (ax > amax) {
            amax = ax;
            value = x[i];
        }
    }
    *magnitude = amax;
    return value;
}

}  // namespace apex::cuda
