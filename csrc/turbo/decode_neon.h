// 16 levels at a time: indices are spread to bytes, and one table look-up finds all of them. The
// sums of a product have the order of decode_avx2.h.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "format.h"

namespace apex::turbo::neon {

template <class Format>
inline int8x16_t levels_of(uint8x16_t index) {
    alignas(16) static constexpr auto kTable = [] {
        struct {
            int8_t level[16] = {};
        } table;
        for (int i = 0; i < 2 * kHalf<Format>; ++i) table.level[i] = turbo::level<Format>(i);
        return table;
    }();
    return vqtbl1q_s8(vld1q_s8(kTable.level), index);
}

// Parts of 16 indices, `mask` of them in each byte. bytes: each of a word's two bytes once for
// every two values it holds of a group, for four groups; shifts: down by what stands before the
// values' bits, as negative numbers.
inline uint8x16_t parts(uint8x16_t bytes, int8x16_t shifts, uint8_t mask) {
    return vandq_u8(vshlq_u8(bytes, shifts), vdupq_n_u8(mask));
}

inline uint8x16_t four_bytes_at(const uint8_t* bytes) {
    uint32_t packed;
    std::memcpy(&packed, bytes, sizeof(packed));
    return vreinterpretq_u8_u32(vdupq_n_u32(packed));
}

// Of 16 values. A word holds two groups.
inline uint8x16_t two_bits(const uint8_t* four_bytes) {
    const uint8x16_t which = {0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3};
    const int8x16_t shifts = {0, -4, 0, -4, -2, -6, -2, -6, 0, -4, 0, -4, -2, -6, -2, -6};
    return parts(vqtbl1q_u8(four_bytes_at(four_bytes), which), shifts, 3);
}

// Of 16 values, which share a word.
inline uint8x16_t one_bit(const uint8_t* two_bytes) {
    uint16_t packed;
    std::memcpy(&packed, two_bytes, sizeof(packed));
    const uint8x16_t which = {0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1};
    const int8x16_t shifts = {0, -4, 0, -4, -1, -5, -1, -5, -2, -6, -2, -6, -3, -7, -3, -7};
    return parts(vqtbl1q_u8(vreinterpretq_u8_u16(vdupq_n_u16(packed)), which), shifts, 1);
}

// Of values 16 quarter to 16 quarter + 15.
inline uint8x16_t indices(const block_turbo2& block, int quarter) {
    return two_bits(block.qs + 4 * quarter);
}

inline uint8x16_t indices(const block_turbo3& block, int quarter) {
    const uint8x16_t high = one_bit(block.qh + 2 * quarter);
    return vorrq_u8(two_bits(block.qs + 4 * quarter), vshlq_n_u8(high, 2));
}

inline uint8x16_t indices(const block_turbo4& block, int quarter) {
    const uint8x8_t packed = vld1_u8(block.qs + 8 * quarter);
    const uint8x8_t even = vand_u8(packed, vdup_n_u8(15)), odd = vshr_n_u8(packed, 4);
    return vcombine_u8(vzip1_u8(even, odd), vzip2_u8(even, odd));
}

inline void store_eight(float* y, float scale, int16x8_t levels) {
    vst1q_f32(y, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(levels))), scale));
    vst1q_f32(y + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_high_s16(levels)), scale));
}

template <class Format>
void decode(const typename Format::Block* x, float* y, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; ++b) {
        const float scale = ggml_fp16_to_fp32(x[b].d);
        for (int quarter = 0; quarter < 4; ++quarter, y += 16) {
            const int8x16_t levels = levels_of<Format>(indices(x[b], quarter));
            store_eight(y, scale, vmovl_s8(vget_low_s8(levels)));
            store_eight(y + 8, scale, vmovl_high_s8(levels));
        }
    }
}

// The sums of four products each. Two products of levels (at most 104) with quants (at most 127)
// fit in 16 bits.
inline float32x4_t products_of(int8x16_t levels, const int8_t* quants) {
    const int8x16_t q = vld1q_s8(quants);
    const int16x8_t first = vmull_s8(vget_low_s8(levels), vget_low_s8(q));
    return vcvtq_f32_s32(vpaddlq_s16(vpaddq_s16(first, vmull_high_s8(levels, q))));
}

template <class Format, class Q8Block>
float dot(const typename Format::Block* x, const Q8Block* y, int n_blocks) {
    float32x4_t low = vdupq_n_f32(0.0f), high = low;
    for (int b = 0; b < n_blocks; ++b) {
        const float scale = ggml_fp16_to_fp32(x[b].d);
        for (int half = 0; half < 2; ++half) {
            const Q8Block& other = y[2 * b + half];
            const int8x16_t first = levels_of<Format>(indices(x[b], 2 * half));
            const int8x16_t second = levels_of<Format>(indices(x[b], 2 * half + 1));
            const float both = scale * ggml_fp16_to_fp32(other.d);
            low = vaddq_f32(low, vmulq_n_f32(products_of(first, other.qs), both));
            high = vaddq_f32(high, vmulq_n_f32(products_of(second, other.qs + 16), both));
        }
    }
    const float32x4_t four = vaddq_f32(low, high);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

}  // namespace apex::turbo::neon
