// Arithmetic of the searches with error feedback: one row of weights in each lane.
//
// Plain vectors of the compiler, as wide as a register of the instruction set this is compiled for
// (CMakeLists.txt). Every operation is one of IEEE 754 on each lane, nothing is contracted or
// summed across lanes: a row's bytes depend neither on the width nor on the rows beside it.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define APEX_FEEDBACK_ISA avx512
#define APEX_FEEDBACK_LANES 16
#elif defined(__AVX2__)
#define APEX_FEEDBACK_ISA avx2
#define APEX_FEEDBACK_LANES 8
#else
#define APEX_FEEDBACK_ISA portable
#define APEX_FEEDBACK_LANES 4
#endif

namespace apex::feedback::APEX_FEEDBACK_ISA {

constexpr int kLanes = APEX_FEEDBACK_LANES;
using Lanes = float __attribute__((vector_size(4 * APEX_FEEDBACK_LANES)));
using Mask = int __attribute__((vector_size(4 * APEX_FEEDBACK_LANES)));

inline Lanes all(float value) {
    return value - Lanes{};
}

inline Mask each(int value) {
    return Mask{} + value;
}

inline Lanes pick(Mask mask, Lanes yes, Lanes no) {
    return mask ? yes : no;
}

inline Lanes clamp(Lanes value, float low, float high) {
    const Lanes least = all(low), most = all(high);
    value = value < least ? least : value;
    return value > most ? most : value;
}

// To the nearest integer, ties to even; |value| is brought below 2^21 first.
inline Lanes round(Lanes value) {
    const float magic = 12582912.0f;
    return (clamp(value, -2097152.0f, 2097152.0f) + magic) - magic;
}

// 1 / value, 0 where it is 0.
inline Lanes inverse(Lanes value) {
    const Mask zero = value == all(0.0f);
    return pick(zero, all(0.0f), 1.0f / pick(zero, all(1.0f), value));
}

// A bit for each lane of a comparison's result.
inline uint32_t bits(Mask mask) {
#if defined(__AVX512DQ__)
    return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
#elif defined(__AVX2__)
    return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#elif defined(__x86_64__)
    return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
#else
    uint32_t found = 0;
    for (int lane = 0; lane < kLanes; ++lane) found |= (mask[lane] != 0 ? 1u : 0u) << lane;
    return found;
#endif
}

inline bool any(Mask mask) {
    return bits(mask) != 0;
}

}  // namespace apex::feedback::APEX_FEEDBACK_ISA
