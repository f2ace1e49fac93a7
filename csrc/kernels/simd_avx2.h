// Eight float or int32 lanes in one AVX2 register; the interface of simd_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace apex::kernels::avx2 {

inline constexpr int kLanes = 8;

struct F32 {
    __m256 v;
    F32() = default;
    F32(__m256 x) : v(x) {}
    F32(float x) : v(_mm256_set1_ps(x)) {}
};

struct I32 {
    __m256i v;
    I32() = default;
    I32(__m256i x) : v(x) {}
    I32(int32_t x) : v(_mm256_set1_epi32(x)) {}
};

// All bits of a lane set or none.
struct Mask {
    __m256 v;
};

inline F32 load(const float* p) {
    return _mm256_loadu_ps(p);
}
inline void store(float* p, F32 a) {
    _mm256_storeu_ps(p, a.v);
}
inline I32 load(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline void store(int32_t* p, I32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v);
}
inline I32 load_u16(const uint16_t* p) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline I32 lane_numbers() {
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}

inline F32 operator+(F32 a, F32 b) {
    return _mm256_add_ps(a.v, b.v);
}
inline F32 operator-(F32 a, F32 b) {
    return _mm256_sub_ps(a.v, b.v);
}
inline F32 operator*(F32 a, F32 b) {
    return _mm256_mul_ps(a.v, b.v);
}
inline F32 operator/(F32 a, F32 b) {
    return _mm256_div_ps(a.v, b.v);
}
inline F32 sqrt(F32 a) {
    return _mm256_sqrt_ps(a.v);
}
inline F32 abs(F32 a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v);
}
inline F32 negate(F32 a) {
    return _mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f));
}
// a < b ? a : b, also for NaN and signed zeros (the second operand wins).
inline F32 min(F32 a, F32 b) {
    return _mm256_min_ps(a.v, b.v);
}
// a > b ? a : b, also for NaN and signed zeros (the second operand wins).
inline F32 max(F32 a, F32 b) {
    return _mm256_max_ps(a.v, b.v);
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
    return _mm256_round_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
}

inline I32 operator+(I32 a, I32 b) {
    return _mm256_add_epi32(a.v, b.v);
}
inline I32 operator-(I32 a, I32 b) {
    return _mm256_sub_epi32(a.v, b.v);
}
inline I32 operator*(I32 a, I32 b) {
    return _mm256_mullo_epi32(a.v, b.v);
}
inline I32 operator&(I32 a, I32 b) {
    return _mm256_and_si256(a.v, b.v);
}
inline I32 operator|(I32 a, I32 b) {
    return _mm256_or_si256(a.v, b.v);
}
inline I32 operator^(I32 a, I32 b) {
    return _mm256_xor_si256(a.v, b.v);
}
inline I32 operator<<(I32 a, int n) {
    return _mm256_slli_epi32(a.v, n);
}
inline I32 operator>>(I32 a, int n) {
    return _mm256_srli_epi32(a.v, n);
}  // logical
inline I32 min(I32 a, I32 b) {
    return _mm256_min_epi32(a.v, b.v);
}
inline I32 max(I32 a, I32 b) {
    return _mm256_max_epi32(a.v, b.v);
}
inline I32 sign_extend_byte(I32 a) {
    return _mm256_srai_epi32(_mm256_slli_epi32(a.v, 24), 24);
}

inline Mask operator<(F32 a, F32 b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)};
}
inline Mask operator>(F32 a, F32 b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)};
}
inline Mask operator<=(F32 a, F32 b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)};
}
inline Mask operator>=(F32 a, F32 b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)};
}
inline Mask operator==(F32 a, F32 b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)};
}
inline Mask operator!=(F32 a, F32 b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)};
}
inline Mask operator~(Mask a) {
    return {_mm256_xor_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))};
}
inline Mask operator==(I32 a, I32 b) {
    return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.v, b.v))};
}
inline Mask operator!=(I32 a, I32 b) {
    return ~(a == b);
}
inline Mask operator>(I32 a, I32 b) {
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(a.v, b.v))};
}
inline Mask operator<(I32 a, I32 b) {
    return b > a;
}

inline Mask operator&(Mask a, Mask b) {
    return {_mm256_and_ps(a.v, b.v)};
}
inline Mask operator|(Mask a, Mask b) {
    return {_mm256_or_ps(a.v, b.v)};
}
inline uint32_t bits(Mask a) {
    return static_cast<uint32_t>(_mm256_movemask_ps(a.v));
}
inline int first_lane(Mask a) {
    return __builtin_ctz(bits(a));
}
inline bool any(Mask a) {
    return bits(a) != 0;
}
inline bool all(Mask a) {
    return bits(a) == 0xFF;
}
inline Mask no_lanes() {
    return {_mm256_setzero_ps()};
}
inline Mask all_lanes() {
    return {_mm256_castsi256_ps(_mm256_set1_epi32(-1))};
}

// take_a ? a : b
inline F32 select(Mask take_a, F32 a, F32 b) {
    return _mm256_blendv_ps(b.v, a.v, take_a.v);
}
inline I32 select(Mask take_a, I32 a, I32 b) {
    return _mm256_castps_si256(
        _mm256_blendv_ps(_mm256_castsi256_ps(b.v), _mm256_castsi256_ps(a.v), take_a.v));
}

inline F32 to_float(I32 a) {
    return _mm256_cvtepi32_ps(a.v);
}
inline I32 to_int_truncated(F32 a) {
    return _mm256_cvttps_epi32(a.v);
}
inline I32 as_int(F32 a) {
    return _mm256_castps_si256(a.v);
}
inline F32 as_float(I32 a) {
    return _mm256_castsi256_ps(a.v);
}

inline F32 gather(const float* base, I32 index) {
    return _mm256_i32gather_ps(base, index.v, 4);
}
inline I32 gather(const int32_t* base, I32 index) {
    return _mm256_i32gather_epi32(base, index.v, 4);
}

// A table of four floats, looked up by bits 0-1 of each lane.
struct Table4 {
    __m256 v;
};
inline Table4 table4(const float* p) {
    return {_mm256_broadcast_ps(reinterpret_cast<const __m128*>(p))};
}
inline F32 lookup(Table4 table, I32 index) {
    return _mm256_permutevar_ps(table.v, index.v);
}

// A table of eight floats, looked up by bits 0-2 of each lane.
struct Table8 {
    __m256 v;
};
inline Table8 table8(const float* p) {
    return {_mm256_loadu_ps(p)};
}
inline F32 lookup(Table8 table, I32 index) {
    return _mm256_permutevar8x32_ps(table.v, index.v);
}

// A table of 32 floats, looked up by bits 0-4 of each lane. p must stay valid.
struct Table32 {
    const float* values;
};
inline Table32 table32(const float* p) {
    return {p};
}
inline F32 lookup(Table32 table, I32 index) {
    return gather(table.values, index & I32(31));
}

inline I32 half_bits(F32 a) {
    return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline F32 float_from_half(I32 a) {
    const __m256i packed = _mm256_packus_epi32(a.v, a.v);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}

// The low byte of each lane.
inline void store_low_bytes(void* p, I32 a) {
    const __m256i low = _mm256_and_si256(a.v, _mm256_set1_epi32(0xFF));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    const __m128i half = _mm256_castsi256_si128(words);
    _mm_storel_epi64(static_cast<__m128i*>(p), _mm_packus_epi16(half, half));
}

inline float smallest_lane(F32 a) {
    __m128 m = _mm_min_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    m = _mm_min_ps(m, _mm_movehl_ps(m, m));
    m = _mm_min_ss(m, _mm_shuffle_ps(m, m, 1));
    return _mm_cvtss_f32(m);
}
inline float largest_lane(F32 a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    m = _mm_max_ss(m, _mm_shuffle_ps(m, m, 1));
    return _mm_cvtss_f32(m);
}

}  // namespace apex::kernels::avx2
