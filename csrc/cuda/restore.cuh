// One weight of a quantized block, as ggml's dequantize_row_* functions give it: the same
// operations in the same order, for any index.
#pragma once

#include "cuda/portable.cuh"

#if defined(__CUDACC__)
#define APEX_DEVICE __device__ __forceinline__
#define GGML_COMMON_IMPL_CUDA
#else
#define APEX_DEVICE inline
#define GGML_COMMON_IMPL_CPP
#endif
#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

namespace apex::cuda {

APEX_DEVICE float restore(const block_q8_0& b, int i) {
    return b.qs[i] * float_of_half(b.d);
}

APEX_DEVICE float restore(const block_q2_K& b, int i) {
    const float d = float_of_half(static_cast<uint16_t>(b.GGML_COMMON_AGGR_U.dm & 0xffffu));
    const float min = float_of_half(static_cast<uint16_t>(b.GGML_COMMON_AGGR_U.dm >> 16));
    const int scale = b.scales[i / 16];
    const int q = (b.qs[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3;
    return d * (scale & 0xF) * q - min * (scale >> 4);
}

APEX_DEVICE float restore(const block_q3_K& b, int i) {
    const int j = i / 16;
    const int low = j < 8 ? b.scales[j] & 0xF : b.scales[j - 8] >> 4;
    const int high = (b.scales[8 + j % 4] >> (2 * (j / 4))) & 3;
    const int q = (b.qs[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3;
    const int offset = (b.hmask[i % 32] >> (i / 32)) & 1 ? 0 : 4;
    return float_of_half(b.d) * ((low | (high << 4)) - 32) * (q - offset);
}

// scale * level - minimum of Q4_K and Q5_K; j: the sub-block.
template <typename Block>
APEX_DEVICE float restore_scale_min(const Block& b, int j, int level) {
    const uint8_t* s = b.scales;
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 0xF) | ((s[j - 4] >> 6) << 4);
    const int min_level = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
    const float d = float_of_half(static_cast<uint16_t>(b.GGML_COMMON_AGGR_U.dm & 0xffffu));
    const float min = float_of_half(static_cast<uint16_t>(b.GGML_COMMON_AGGR_U.dm >> 16));
    return d * scale * level - min * min_level;
}

APEX_DEVICE float restore(const block_q4_K& b, int i) {
    const int j = i / 32;
    return restore_scale_min(b, j, (b.qs[32 * (i / 64) + i % 32] >> (4 * (j % 2))) & 0xF);
}

APEX_DEVICE float restore(const block_q5_K& b, int i) {
    const int j = i / 32;
    const int low = (b.qs[32 * (i / 64) + i % 32] >> (4 * (j % 2))) & 0xF;
    return restore_scale_min(b, j, low + ((b.qh[i % 32] >> j) & 1 ? 16 : 0));
}

APEX_DEVICE float restore(const block_q6_K& b, int i) {
    const int half = i / 128, part = i % 128 / 32, l = i % 32;
    const int low = (b.ql[64 * half + l + 32 * (part % 2)] >> (4 * (part / 2))) & 0xF;
    const int high = (b.qh[32 * half + l] >> (2 * part)) & 3;
    const int q = (low | (high << 4)) - 32;
    return float_of_half(b.d) * b.scales[8 * half + l / 16 + 2 * part] * q;
}

APEX_DEVICE float restore(const block_iq4_nl& b, int i) {
    return float_of_half(b.d) * kvalues_iq4nl[(b.qs[i % 16] >> (4 * (i / 16))) & 0xF];
}

APEX_DEVICE float restore(const block_iq4_xs& b, int i) {
    const int j = i / 32;
    const int scale =
        ((b.scales_l[j / 2] >> (4 * (j % 2))) & 0xF) | (((b.scales_h >> (2 * j)) & 3) << 4);
    const int q = kvalues_iq4nl[(b.qs[16 * j + i % 16] >> (4 * (i % 32 / 16))) & 0xF];
    return float_of_half(b.d) * (scale - 32) * q;
}

// Byte i of a point of a code book, with the sign of bit i: scale * point * sign.
template <typename Point>
APEX_DEVICE float signed_point(float scale, Point point, int i, int signs, int sign_bit) {
    const auto byte = static_cast<int>((point >> (8 * i)) & 0xff);
    return scale * byte * ((signs >> sign_bit) & 1 ? -1.f : 1.f);
}

APEX_DEVICE float restore(const block_iq2_xxs& b, int i) {
    const uint16_t* q = b.qs + 4 * (i / 32);
    const int l = i % 32 / 8;
    const uint32_t word = q[2] | static_cast<uint32_t>(q[3]) << 16;
    const float scale = float_of_half(b.d) * (0.5f + (word >> 28)) * 0.25f;
    const int index = (q[l / 2] >> (8 * (l % 2))) & 0xff;
    return signed_point(scale, iq2xxs_grid[index], i % 8, ksigns_iq2xs[(word >> (7 * l)) & 127],
                        i % 8);
}

// The 4-bit scales of IQ2_XS and IQ2_S.
template <typename Block>
APEX_DEVICE float scale_iq2(const Block& b, int i) {
    const int level = (b.scales[i / 32] >> (4 * (i % 32 / 16))) & 0xF;
    return float_of_half(b.d) * (0.5f + level) * 0.25f;
}

APEX_DEVICE float restore(const block_iq2_xs& b, int i) {
    const int q = b.qs[i / 8];
    return signed_point(scale_iq2(b, i), iq2xs_grid[q & 511], i % 8, ksigns_iq2xs[q >> 9], i % 8);
}

APEX_DEVICE float restore(const block_iq2_s& b, int i) {
    const int g = i / 8;
    const int index = b.qs[g] | (((b.qh[g / 4] >> (2 * (g % 4))) & 3) << 8);
    return signed_point(scale_iq2(b, i), iq2s_grid[index], i % 8, b.qs[kSuperBlock / 8 + g], i % 8);
}

APEX_DEVICE float restore(const block_iq3_xxs& b, int i) {
    const uint8_t* at = b.qs + kSuperBlock / 4 + 4 * (i / 32);
    const uint32_t word = at[0] | at[1] << 8 | at[2] << 16 | static_cast<uint32_t>(at[3]) << 24;
    const float scale = float_of_half(b.d) * (0.5f + (word >> 28)) * 0.5f;
    const int signs = ksigns_iq2xs[(word >> (7 * (i % 32 / 8))) & 127];
    return signed_point(scale, iq3xxs_grid[b.qs[i / 4]], i % 4, signs, i % 8);
}

APEX_DEVICE float restore(const block_iq3_s& b, int i) {
    const int j = i / 32, g = i / 4;
    const float scale = float_of_half(b.d) * (1 + 2 * ((b.scales[j / 2] >> (4 * (j % 2))) & 0xF));
    const int index = b.qs[g] | (((b.qh[j] >> (g % 8)) & 1) << 8);
    return signed_point(scale, iq3s_grid[index], i % 4, b.signs[i / 8], i % 8);
}

// Value -1, 0 or 1 at position i of a point of IQ1; ggml-common.h has the book in two forms.
APEX_DEVICE int value_iq1(int index, int i) {
#if defined(__CUDACC__)
    return static_cast<int>((iq1s_grid_gpu[index] >> (8 * (i % 4) + 4 * (i / 4))) & 3) - 1;
#else
    return static_cast<int8_t>((iq1s_grid[index] >> (8 * i)) & 0xff);
#endif
}

APEX_DEVICE float shifted_point(float scale, int index, int i, bool down) {
    return scale * (value_iq1(index, i) + (down ? -IQ1S_DELTA : IQ1S_DELTA));
}

APEX_DEVICE float restore(const block_iq1_s& b, int i) {
    const int high = b.qh[i / 32], l = i % 32 / 8;
    const float scale = float_of_half(b.d) * (2 * ((high >> 12) & 7) + 1);
    const int index = b.qs[i / 8] | (((high >> (3 * l)) & 7) << 8);
    return shifted_point(scale, index, i % 8, (high & 0x8000) != 0);
}

APEX_DEVICE float restore(const block_iq1_m& b, int i) {
    const auto word = [&](int k) { return b.scales[2 * k] | b.scales[2 * k + 1] << 8; };
    const int d =
        (word(0) >> 12) | ((word(1) >> 8) & 0xf0) | ((word(2) >> 4) & 0xf00) | (word(3) & 0xf000);
    const int j = i / 16, g = i / 8;
    const float scale =
        float_of_half(static_cast<uint16_t>(d)) * (2 * ((word(j / 4) >> (3 * (j % 4))) & 7) + 1);
    const int high = b.qh[j] >> (4 * (g % 2));
    return shifted_point(scale, b.qs[g] | ((high & 7) << 8), i % 8, (high & 8) != 0);
}

}  // namespace apex::cuda
