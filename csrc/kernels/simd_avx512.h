// Sixteen float or int32 lanes in one AVX-512 register.
//
// Every operation is one IEEE operation on each lane: nothing here may fuse, reorder or
// approximate, because the quantizers built on it promise the bytes of ggml's scalar code.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace apex::kernels::avx512 {

inline constexpr int kLanes = 16;

struct F32 {
    __m512 v;
    F32() = default;
    F32(__m512 x) : v(x) {}
    F32(float x) : v(_mm512_set1_ps(x)) {}
};

struct I32 {
    __m512i v;
    I32() = default;
    I32(__m512i x) : v(x) {}
    I32(int32_t x) : v(_mm512_set1_epi32(x)) {}
};

struct Mask {
    __mmask16 v;
};

inline F32 load(const float* p) {
    return _mm512_loadu_ps(p);
}
inline void store(float* p, F32 a) {
    _mm512_storeu_ps(p, a.v);
}
inline I32 load(const int32_t* p) {
    return _mm512_loadu_si512(p);
}
inline void store(int32_t* p, I32 a) {
    _mm512_storeu_si512(p, a.v);
}
inline I32 load_u16(const uint16_t* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline I32 lane_numbers() {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

inline F32 operator+(F32 a, F32 b) {
    return _mm512_add_ps(a.v, b.v);
}
inline F32 operator-(F32 a, F32 b) {
    return _mm512_sub_ps(a.v, b.v);
}
inline F32 operator*(F32 a, F32 b) {
    return _mm512_mul_ps(a.v, b.v);
}
inline F32 operator/(F32 a, F32 b) {
    return _mm512_div_ps(a.v, b.v);
}
inline F32 sqrt(F32 a) {
    return _mm512_sqrt_ps(a.v);
}
inline F32 abs(F32 a) {
    return _mm512_abs_ps(a.v);
}
inline F32 negate(F32 a) {
    return _mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f));
}
// a < b ? a : b, also for NaN and signed zeros (the second operand wins).
inline F32 min(F32 a, F32 b) {
    return _mm512_min_ps(a.v, b.v);
}
// a > b ? a : b, also for NaN and signed zeros (the second operand wins).
inline F32 max(F32 a, F32 b) {
    return _mm512_max_ps(a.v, b.v);
}
// Neither is NaN.
inline F32 max_of_numbers(F32 a, F32 b) {
    return max(a, b);
}
inline F32 min_of_numbers(F32 a, F32 b) {
    return min(a, b);
}
// x, or bound for NaN and for what is above it.
inline F32 number_or(F32 x, float bound) {
    return min(x, F32(bound));
}
inline F32 truncate(F32 a) {
    return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
}

inline I32 operator+(I32 a, I32 b) {
    return _mm512_add_epi32(a.v, b.v);
}
inline I32 operator-(I32 a, I32 b) {
    return _mm512_sub_epi32(a.v, b.v);
}
inline I32 operator*(I32 a, I32 b) {
    return _mm512_mullo_epi32(a.v, b.v);
}
inline I32 operator&(I32 a, I32 b) {
    return _mm512_and_si512(a.v, b.v);
}
inline I32 operator|(I32 a, I32 b) {
    return _mm512_or_si512(a.v, b.v);
}
inline I32 operator^(I32 a, I32 b) {
    return _mm512_xor_si512(a.v, b.v);
}
inline I32 operator<<(I32 a, unsigned n) {
    return _mm512_slli_epi32(a.v, n);
}
inline I32 operator>>(I32 a, unsigned n) {
    return _mm512_srli_epi32(a.v, n);
}  // logical
inline I32 min(I32 a, I32 b) {
    return _mm512_min_epi32(a.v, b.v);
}
inline I32 max(I32 a, I32 b) {
    return _mm512_max_epi32(a.v, b.v);
}
inline I32 sign_extend_byte(I32 a) {
    return _mm512_srai_epi32(_mm512_slli_epi32(a.v, 24), 24);
}

inline Mask operator<(F32 a, F32 b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
}
inline Mask operator>(F32 a, F32 b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)};
}
inline Mask operator<=(F32 a, F32 b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)};
}
inline Mask operator>=(F32 a, F32 b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)};
}
inline Mask operator==(F32 a, F32 b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)};
}
inline Mask operator!=(F32 a, F32 b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ)};
}
inline Mask operator==(I32 a, I32 b) {
    return {_mm512_cmpeq_epi32_mask(a.v, b.v)};
}
inline Mask operator!=(I32 a, I32 b) {
    return {_mm512_cmpneq_epi32_mask(a.v, b.v)};
}
inline Mask operator>(I32 a, I32 b) {
    return {_mm512_cmpgt_epi32_mask(a.v, b.v)};
}
inline Mask operator<(I32 a, I32 b) {
    return {_mm512_cmplt_epi32_mask(a.v, b.v)};
}

inline Mask operator&(Mask a, Mask b) {
    return {static_cast<__mmask16>(a.v & b.v)};
}
inline Mask operator|(Mask a, Mask b) {
    return {static_cast<__mmask16>(a.v | b.v)};
}
inline Mask operator~(Mask a) {
    return {static_cast<__mmask16>(~a.v)};
}
inline bool any(Mask a) {
    return a.v != 0;
}
inline bool all(Mask a) {
    return a.v == 0xFFFF;
}
inline uint32_t bits(Mask a) {
    return a.v;
}
inline int first_lane(Mask a) {
    return __builtin_ctz(bits(a));
}
inline Mask no_lanes() {
    return {0};
}
inline Mask all_lanes() {
    return {0xFFFF};
}

// take_a ? a : b
inline F32 select(Mask take_a, F32 a, F32 b) {
    return _mm512_mask_blend_ps(take_a.v, b.v, a.v);
}
inline I32 select(Mask take_a, I32 a, I32 b) {
    return _mm512_mask_blend_epi32(take_a.v, b.v, a.v);
}

inline F32 to_float(I32 a) {
    return _mm512_cvtepi32_ps(a.v);
}
inline I32 to_int_truncated(F32 a) {
    return _mm512_cvttps_epi32(a.v);
}
inline I32 as_int(F32 a) {
    return _mm512_castps_si512(a.v);
}
inline F32 as_float(I32 a) {
    return _mm512_castsi512_ps(a.v);
}

inline F32 gather(const float* base, I32 index) {
    return _mm512_i32gather_ps(index.v, base, 4);
}
inline I32 gather(const int32_t* base, I32 index) {
    return _mm512_i32gather_epi32(index.v, base, 4);
}

// A table of four floats, looked up by bits 0-1 of each lane.
struct Table4 {
    __m512 v;
};
inline Table4 table4(const float* p) {
    return {_mm512_broadcast_f32x4(_mm_loadu_ps(p))};
}
inline F32 lookup(Table4 table, I32 index) {
    return _mm512_permutevar_ps(table.v, index.v);
}

// A table of eight floats, looked up by bits 0-2 of each lane.
struct Table8 {
    __m512 v;
};
inline Table8 table8(const float* p) {
    return {_mm512_broadcast_f32x8(_mm256_loadu_ps(p))};
}
inline F32 lookup(Table8 table, I32 index) {
    // Both halves of the register hold the table, so bit 3 of the index does not matter.
    return _mm512_permutexvar_ps(index.v, table.v);
}

// A table of 32 floats, looked up by bits 0-4 of each lane.
struct Table32 {
    __m512 low, high;
};
inline Table32 table32(const float* p) {
    return {_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16)};
}
inline F32 lookup(Table32 table, I32 index) {
    return _mm512_permutex2var_ps(table.low, index.v, table.high);
}

inline I32 half_bits(F32 a) {
    return _mm512_cvtepu16_epi32(_mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline F32 float_from_half(I32 a) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a.v));
}

// The low byte of each lane.
inline void store_low_bytes(void* p, I32 a) {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

inline float smallest_lane(F32 a) {
    return _mm512_reduce_min_ps(a.v);
}
inline float largest_lane(F32 a) {
    return _mm512_reduce_max_ps(a.v);
}

}  // namespace apex::kernels::avx512
