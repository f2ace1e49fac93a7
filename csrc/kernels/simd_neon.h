// Eight float or int32 lanes in two NEON registers; the interface of simd_avx512.h.
//
// Two registers instead of one: the kernels then have two independent chains of operations to
// overlap, and share every layout with AVX2. Products and sums stay apart (vmulq, vaddq; never
// vfmaq or vmlaq): a fused multiply-add would round once where x86 rounds twice.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace apex::kernels::neon {

inline constexpr int kLanes = 8;

struct F32 {
    float32x4_t lo, hi;
    F32() = default;
    F32(float32x4_t l, float32x4_t h) : lo(l), hi(h) {}
    F32(float x) : lo(vdupq_n_f32(x)), hi(lo) {}
};

struct I32 {
    int32x4_t lo, hi;
    I32() = default;
    I32(int32x4_t l, int32x4_t h) : lo(l), hi(h) {}
    I32(uint32x4_t l, uint32x4_t h) : lo(vreinterpretq_s32_u32(l)), hi(vreinterpretq_s32_u32(h)) {}
    I32(int32_t x) : lo(vdupq_n_s32(x)), hi(lo) {}
};

// All bits of a lane set or none.
struct Mask {
    uint32x4_t lo, hi;
};

inline F32 load(const float* p) {
    return {vld1q_f32(p), vld1q_f32(p + 4)};
}
inline void store(float* p, F32 a) {
    vst1q_f32(p, a.lo);
    vst1q_f32(p + 4, a.hi);
}
inline I32 load(const int32_t* p) {
    return {vld1q_s32(p), vld1q_s32(p + 4)};
}
inline void store(int32_t* p, I32 a) {
    vst1q_s32(p, a.lo);
    vst1q_s32(p + 4, a.hi);
}
inline I32 load_u16(const uint16_t* p) {
    const uint16x8_t words = vld1q_u16(p);
    return {vmovl_u16(vget_low_u16(words)), vmovl_high_u16(words)};
}
inline I32 lane_numbers() {
    static const int32_t numbers[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7};
    return load(numbers);
}

inline F32 operator+(F32 a, F32 b) {
    return {vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)};
}
inline F32 operator-(F32 a, F32 b) {
    return {vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)};
}
inline F32 operator*(F32 a, F32 b) {
    return {vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)};
}
inline F32 operator/(F32 a, F32 b) {
    return {vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)};
}
inline F32 sqrt(F32 a) {
    return {vsqrtq_f32(a.lo), vsqrtq_f32(a.hi)};
}
inline F32 abs(F32 a) {
    return {vabsq_f32(a.lo), vabsq_f32(a.hi)};
}
inline F32 negate(F32 a) {
    return {vnegq_f32(a.lo), vnegq_f32(a.hi)};
}
inline F32 truncate(F32 a) {
    return {vrndq_f32(a.lo), vrndq_f32(a.hi)};
}

inline I32 operator+(I32 a, I32 b) {
    return {vaddq_s32(a.lo, b.lo), vaddq_s32(a.hi, b.hi)};
}
inline I32 operator-(I32 a, I32 b) {
    return {vsubq_s32(a.lo, b.lo), vsubq_s32(a.hi, b.hi)};
}
inline I32 operator*(I32 a, I32 b) {
    return {vmulq_s32(a.lo, b.lo), vmulq_s32(a.hi, b.hi)};
}
inline I32 operator&(I32 a, I32 b) {
    return {vandq_s32(a.lo, b.lo), vandq_s32(a.hi, b.hi)};
}
inline I32 operator|(I32 a, I32 b) {
    return {vorrq_s32(a.lo, b.lo), vorrq_s32(a.hi, b.hi)};
}
inline I32 operator^(I32 a, I32 b) {
    return {veorq_s32(a.lo, b.lo), veorq_s32(a.hi, b.hi)};
}
// The compilers' own vector shifts: an immediate where n is a constant, as it mostly is.
inline I32 operator<<(I32 a, int n) {
    return {vreinterpretq_u32_s32(a.lo) << n, vreinterpretq_u32_s32(a.hi) << n};
}
inline I32 operator>>(I32 a, int n) {
    return {vreinterpretq_u32_s32(a.lo) >> n, vreinterpretq_u32_s32(a.hi) >> n};
}  // logical
inline I32 min(I32 a, I32 b) {
    return {vminq_s32(a.lo, b.lo), vminq_s32(a.hi, b.hi)};
}
inline I32 max(I32 a, I32 b) {
    return {vmaxq_s32(a.lo, b.lo), vmaxq_s32(a.hi, b.hi)};
}
inline I32 sign_extend_byte(I32 a) {
    return {vshrq_n_s32(vshlq_n_s32(a.lo, 24), 24), vshrq_n_s32(vshlq_n_s32(a.hi, 24), 24)};
}

inline Mask operator<(F32 a, F32 b) {
    return {vcltq_f32(a.lo, b.lo), vcltq_f32(a.hi, b.hi)};
}
inline Mask operator>(F32 a, F32 b) {
    return {vcgtq_f32(a.lo, b.lo), vcgtq_f32(a.hi, b.hi)};
}
inline Mask operator<=(F32 a, F32 b) {
    return {vcleq_f32(a.lo, b.lo), vcleq_f32(a.hi, b.hi)};
}
inline Mask operator>=(F32 a, F32 b) {
    return {vcgeq_f32(a.lo, b.lo), vcgeq_f32(a.hi, b.hi)};
}
inline Mask operator==(F32 a, F32 b) {
    return {vceqq_f32(a.lo, b.lo), vceqq_f32(a.hi, b.hi)};
}
inline Mask operator~(Mask a) {
    return {vmvnq_u32(a.lo), vmvnq_u32(a.hi)};
}
inline Mask operator!=(F32 a, F32 b) {
    return ~(a == b);
}
inline Mask operator==(I32 a, I32 b) {
    return {vceqq_s32(a.lo, b.lo), vceqq_s32(a.hi, b.hi)};
}
inline Mask operator!=(I32 a, I32 b) {
    return ~(a == b);
}
inline Mask operator>(I32 a, I32 b) {
    return {vcgtq_s32(a.lo, b.lo), vcgtq_s32(a.hi, b.hi)};
}
inline Mask operator<(I32 a, I32 b) {
    return b > a;
}

inline Mask operator&(Mask a, Mask b) {
    return {vandq_u32(a.lo, b.lo), vandq_u32(a.hi, b.hi)};
}
inline Mask operator|(Mask a, Mask b) {
    return {vorrq_u32(a.lo, b.lo), vorrq_u32(a.hi, b.hi)};
}
inline uint32_t bits(Mask a) {
    static const uint16_t lane_bits[kLanes] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint16x8_t lanes = vcombine_u16(vmovn_u32(a.lo), vmovn_u32(a.hi));
    return vaddvq_u16(vandq_u16(lanes, vld1q_u16(lane_bits)));
}
inline int first_lane(Mask a) {
    const uint8x8_t lanes =
        vmovn_u16(vuzp1q_u16(vreinterpretq_u16_u32(a.lo), vreinterpretq_u16_u32(a.hi)));
    return __builtin_ctzll(vget_lane_u64(vreinterpret_u64_u8(lanes), 0)) >> 3;
}
inline bool any(Mask a) {
    return vmaxvq_u32(vorrq_u32(a.lo, a.hi)) != 0;
}
inline bool all(Mask a) {
    return vminvq_u32(vandq_u32(a.lo, a.hi)) != 0;
}
inline Mask no_lanes() {
    return {vdupq_n_u32(0), vdupq_n_u32(0)};
}
inline Mask all_lanes() {
    return ~no_lanes();
}

// take_a ? a : b
inline F32 select(Mask take_a, F32 a, F32 b) {
    return {vbslq_f32(take_a.lo, a.lo, b.lo), vbslq_f32(take_a.hi, a.hi, b.hi)};
}
inline I32 select(Mask take_a, I32 a, I32 b) {
    return {vbslq_s32(take_a.lo, a.lo, b.lo), vbslq_s32(take_a.hi, a.hi, b.hi)};
}

// a < b ? a : b, also for NaN and signed zeros (the second operand wins); vminq would do neither.
inline F32 min(F32 a, F32 b) {
    return select(a < b, a, b);
}
// a > b ? a : b, also for NaN and signed zeros (the second operand wins).
inline F32 max(F32 a, F32 b) {
    return select(a > b, a, b);
}

// Neither is NaN.
inline F32 max_of_numbers(F32 a, F32 b) {
    return {vmaxq_f32(a.lo, b.lo), vmaxq_f32(a.hi, b.hi)};
}
inline F32 min_of_numbers(F32 a, F32 b) {
    return {vminq_f32(a.lo, b.lo), vminq_f32(a.hi, b.hi)};
}
// x, or bound for NaN and for what is above it. bound: above zero.
inline F32 number_or(F32 x, float bound) {
    return {vminnmq_f32(x.lo, vdupq_n_f32(bound)), vminnmq_f32(x.hi, vdupq_n_f32(bound))};
}
// Low for NaN.
inline F32 clamp_number(F32 x, float low, float high) {
    const float32x4_t l = vdupq_n_f32(low), h = vdupq_n_f32(high);
    return {vminnmq_f32(vmaxnmq_f32(x.lo, l), h), vminnmq_f32(vmaxnmq_f32(x.hi, l), h)};
}
inline F32 round_half_even(F32 x) {
    return {vrndnq_f32(x.lo), vrndnq_f32(x.hi)};
}
// The integer 0..top nearest to x, halves to even; 0 for NaN.
inline I32 nearest_level(F32 x, uint32_t top) {
    const uint32x4_t t = vdupq_n_u32(top);
    return {vminq_u32(vcvtnq_u32_f32(x.lo), t), vminq_u32(vcvtnq_u32_f32(x.hi), t)};
}

inline F32 to_float(I32 a) {
    return {vcvtq_f32_s32(a.lo), vcvtq_f32_s32(a.hi)};
}
// INT32_MIN for whatever has no int32, NaN included, as x86 converts; NEON alone saturates.
inline I32 to_int_truncated(F32 a) {
    const I32 converted = {vcvtq_s32_f32(a.lo), vcvtq_s32_f32(a.hi)};
    return select(a < F32(2147483648.0f), converted, I32(INT32_MIN));
}
// Rounded with halves away from zero. Every a has an int32.
inline I32 to_int_half_away(F32 a) {
    return {vcvtaq_s32_f32(a.lo), vcvtaq_s32_f32(a.hi)};
}
inline I32 as_int(F32 a) {
    return {vreinterpretq_s32_f32(a.lo), vreinterpretq_s32_f32(a.hi)};
}
inline F32 as_float(I32 a) {
    return {vreinterpretq_f32_s32(a.lo), vreinterpretq_f32_s32(a.hi)};
}

inline F32 gather(const float* base, I32 index) {
    alignas(16) int32_t at[kLanes];
    store(at, index);
    const float32x4_t lo = {base[at[0]], base[at[1]], base[at[2]], base[at[3]]};
    const float32x4_t hi = {base[at[4]], base[at[5]], base[at[6]], base[at[7]]};
    return {lo, hi};
}
inline I32 gather(const int32_t* base, I32 index) {
    alignas(16) int32_t at[kLanes];
    store(at, index);
    const int32x4_t lo = {base[at[0]], base[at[1]], base[at[2]], base[at[3]]};
    const int32x4_t hi = {base[at[4]], base[at[5]], base[at[6]], base[at[7]]};
    return {lo, hi};
}

// Byte numbers of the float that each lane's index names.
inline uint8x16_t float_bytes(int32x4_t index) {
    const uint32x4_t spread = vmulq_u32(vreinterpretq_u32_s32(index), vdupq_n_u32(0x04040404));
    return vreinterpretq_u8_u32(vaddq_u32(spread, vdupq_n_u32(0x03020100)));
}

// A table of four floats, looked up by bits 0-1 of each lane.
struct Table4 {
    uint8x16_t v;
};
inline Table4 table4(const float* p) {
    return {vreinterpretq_u8_f32(vld1q_f32(p))};
}
inline F32 lookup(Table4 table, I32 index) {
    const I32 i = index & I32(3);
    return {vreinterpretq_f32_u8(vqtbl1q_u8(table.v, float_bytes(i.lo))),
            vreinterpretq_f32_u8(vqtbl1q_u8(table.v, float_bytes(i.hi)))};
}

// A table of eight floats, looked up by bits 0-2 of each lane.
struct Table8 {
    uint8x16x2_t v;
};
inline Table8 table8(const float* p) {
    return {{{vreinterpretq_u8_f32(vld1q_f32(p)), vreinterpretq_u8_f32(vld1q_f32(p + 4))}}};
}
inline F32 lookup(Table8 table, I32 index) {
    const I32 i = index & I32(7);
    return {vreinterpretq_f32_u8(vqtbl2q_u8(table.v, float_bytes(i.lo))),
            vreinterpretq_f32_u8(vqtbl2q_u8(table.v, float_bytes(i.hi)))};
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
    const uint16x4_t low = vreinterpret_u16_f16(vcvt_f16_f32(a.lo));
    const uint16x4_t high = vreinterpret_u16_f16(vcvt_f16_f32(a.hi));
    return {vmovl_u16(low), vmovl_u16(high)};
}
inline uint16_t half_bits(float x) {
    return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(x))), 0);
}
inline F32 float_from_half(I32 a) {
    const uint16x4_t low = vmovn_u32(vreinterpretq_u32_s32(a.lo));
    const uint16x4_t high = vmovn_u32(vreinterpretq_u32_s32(a.hi));
    return {vcvt_f32_f16(vreinterpret_f16_u16(low)), vcvt_f32_f16(vreinterpret_f16_u16(high))};
}

// The low 16 bits of each lane.
inline uint8x16_t low_words(I32 a) {
    return vreinterpretq_u8_u16(
        vuzp1q_u16(vreinterpretq_u16_s32(a.lo), vreinterpretq_u16_s32(a.hi)));
}
// The low byte of each lane.
inline void store_low_bytes(void* p, I32 a) {
    vst1_u8(static_cast<uint8_t*>(p), vmovn_u16(vreinterpretq_u16_u8(low_words(a))));
}
// Of a's lanes, then of b's.
inline void store_low_bytes(void* p, I32 a, I32 b) {
    vst1q_u8(static_cast<uint8_t*>(p), vuzp1q_u8(low_words(a), low_words(b)));
}

// No lane is NaN.
inline float smallest_lane(F32 a) {
    return vminvq_f32(vminq_f32(a.lo, a.hi));
}
inline float largest_lane(F32 a) {
    return vmaxvq_f32(vmaxq_f32(a.lo, a.hi));
}

// Eight rows of eight floats, rows and columns exchanged: four blocks of four by four.
inline void transpose_8x8(const float* const* rows, int column, float* out, int out_stride) {
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 8; j += 4) {
            const float32x4_t r0 = vld1q_f32(rows[i] + column + j);
            const float32x4_t r1 = vld1q_f32(rows[i + 1] + column + j);
            const float32x4_t r2 = vld1q_f32(rows[i + 2] + column + j);
            const float32x4_t r3 = vld1q_f32(rows[i + 3] + column + j);
            const float64x2_t a0 = vreinterpretq_f64_f32(vtrn1q_f32(r0, r1));
            const float64x2_t a1 = vreinterpretq_f64_f32(vtrn2q_f32(r0, r1));
            const float64x2_t b0 = vreinterpretq_f64_f32(vtrn1q_f32(r2, r3));
            const float64x2_t b1 = vreinterpretq_f64_f32(vtrn2q_f32(r2, r3));
            float* to = out + j * out_stride + i;
            vst1q_f32(to, vreinterpretq_f32_f64(vtrn1q_f64(a0, b0)));
            vst1q_f32(to + out_stride, vreinterpretq_f32_f64(vtrn1q_f64(a1, b1)));
            vst1q_f32(to + 2 * out_stride, vreinterpretq_f32_f64(vtrn2q_f64(a0, b0)));
            vst1q_f32(to + 3 * out_stride, vreinterpretq_f32_f64(vtrn2q_f64(a1, b1)));
        }
    }
}

}  // namespace apex::kernels::neon
