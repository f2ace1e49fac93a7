// Picks the lane type for the instruction set this file is compiled with.
//
// The quantizers are written once, in terms of F32, I32 and Mask, and compiled once per set: twice
// on x86, once (NEON) on 64-bit ARM. Everything they define lives in namespace APEX_ISA, so that
// two builds never share a symbol: a linker that merged an AVX-512 copy of an inline function into
// the AVX2 path would crash on older CPUs. For the same reason these files use no std templates.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define APEX_ISA avx512
#include "simd_avx512.h"
#include "transpose_x86.h"
#elif defined(__AVX2__) && defined(__F16C__)
#define APEX_ISA avx2
#include "simd_avx2.h"
#include "transpose_x86.h"
#elif defined(__aarch64__)
#define APEX_ISA neon
#include "simd_neon.h"
#else
#error "compile with the flags of csrc/kernels/README.md"
#endif

#include "unroll.h"

namespace apex::kernels::APEX_ISA {

// 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits.
inline constexpr float kRoundMagic = 12582912.0f;

// ggml's nearest_int, including what it returns where rounding by the magic number does not hold
// (|x| > 2^22, infinity, NaN): callers clamp that value, so it must be the same one.
inline I32 nearest_int(F32 x) {
    return (as_int(x + F32(kRoundMagic)) & I32(0x007fffff)) - I32(0x00400000);
}

inline I32 clamp(I32 x, int32_t low, int32_t high) {
    return max(I32(low), min(I32(high), x));
}

// float(clamp(nearest_int(x), low, high)) for |x| <= 2^22 only: there x + magic is
// magic + nearest_int(x) exactly, so clamping and subtracting can stay in float. low for NaN. Where
// the result is zero its sign is not the same on each instruction set.
inline F32 nearest_clamped_in_range(F32 x, float low, float high) {
#if defined(__aarch64__)
    return clamp_number(round_half_even(x), low, high);
#else
    const F32 shifted = x + F32(kRoundMagic);
    return min(max(shifted, F32(kRoundMagic + low)), F32(kRoundMagic + high)) - F32(kRoundMagic);
#endif
}

// The same without ends, or with an upper one only.
inline F32 nearest_in_range(F32 x) {
#if defined(__aarch64__)
    return round_half_even(x);
#else
    return (x + F32(kRoundMagic)) - F32(kRoundMagic);
#endif
}

inline F32 nearest_up_to_in_range(F32 x, float high) {
#if defined(__aarch64__)
    return min_of_numbers(round_half_even(x), F32(high));
#else
    return min(x + F32(kRoundMagic), F32(kRoundMagic + high)) - F32(kRoundMagic);
#endif
}

// ggml_compute_fp32_to_fp16: the hardware rounds alike, but keeps NaN payloads.
inline I32 to_half(F32 x) {
    const I32 h = half_bits(x);
    const Mask is_nan = (h & I32(0x7fff)) > I32(0x7c00);
    return select(is_nan, (h & I32(0x8000)) | I32(0x7e00), h);
}

}  // namespace apex::kernels::APEX_ISA
