// Q6_K: sixteen sub-blocks of 16 weights, each with an 8-bit scale.
// Scalar twin: quantize_row_q6_K_impl (quantize_row_q6_K_ref is the same without a matrix).
#pragma once

#include "cuda/search_signed_scale.cuh"
#include "cuda/super_block.cuh"

namespace apex::cuda {

template <bool WithMatrix>
struct Q6_K {
    using Block = block_q6_K;
    static constexpr int kSubBlocks = 16;
    static constexpr int kLength = 16;
    static constexpr int kLaneFloats = 0;
    static constexpr bool kSums = false;
    static constexpr bool kFits = false;
    static constexpr bool kCodebook = false;
    static constexpr int kMax = 32;

    struct Thread {
        float x[kLength];
        SignedScale found;
        float d;
        bool overflow;
    };
    struct Scratch {
        float scales[kSubBlocks];
        uint8_t scale_levels[kSubBlocks];
        uint8_t levels[kSuperBlock];
        uint16_t d;
        bool empty;  // the whole block is zero bytes
    };

    template <typename Lane>
    APEX_HD static void find(Thread& t, int j, const float* imatrix, float, Lane, const Tables&,
                             Scratch& s) {
        float w[kLength];
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) w[i] = WithMatrix ? imatrix[i] : t.x[i] * t.x[i];
        t.found = search_signed_scale(t.x, w, kMax);
        s.scales[j] = t.found.scale;
    }

    APEX_HD static void combine(Thread& t, int j, Scratch& s) {
        float max_scale = 0.0f, max_abs_scale = 0.0f;
        APEX_UNROLL
        for (int k = 0; k < kSubBlocks; ++k) {
            const float scale = s.scales[k];
            if (absolute(scale) > max_abs_scale) {
                max_abs_scale = absolute(scale);
                max_scale = scale;
            }
        }
        const float inverse = -128.0f / max_scale;
        const int32_t rounded = nearest_int(inverse * t.found.scale);
        const auto level = static_cast<int8_t>(rounded < 127 ? rounded : 127);
        const uint16_t d = half_of(1.0f / inverse);
        t.d = float_of_half(d) * level;
        s.scale_levels[j] = static_cast<uint8_t>(level);
        if (j == 0) {
            s.d = d;
            s.empty = max_abs_scale < kGroupMaxEps;
        }
    }

    // A sub-block whose scale is zero keeps the levels of the search.
    APEX_HD static void choose(Thread& t, int j, FitSums, const Tables&, Scratch& s) {
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            const int32_t l = t.d == 0.0f
                                  ? t.found.level(t.x[i], kMax)
                                  : clamp(nearest_int(t.x[i] / t.d), -kMax, kMax - 1) + kMax;
            s.levels[kLength * j + i] = static_cast<uint8_t>(l);
        }
    }

    // ql: byte i of half h holds the low nibbles of weights 128 h + i and + 64; its second 32 bytes
    // hold + 32 and + 96. qh: the upper two bits of the four.
    APEX_HD static void pack(int j, const Scratch& s, const Tables&, Block* out) {
        const int keep = s.empty ? 0 : 0xff;
        for (int b = 8 * j; b < 8 * j + 8; ++b) {
            const uint8_t* at = s.levels + 128 * (b / 64) + b % 64;
            out->ql[b] = static_cast<uint8_t>(((at[0] & 0xF) | (at[64] << 4)) & keep);
        }
        for (int b = 4 * j; b < 4 * j + 4; ++b) {
            const uint8_t* at = s.levels + 128 * (b / 32) + b % 32;
            const int high =
                (at[0] >> 4) | ((at[32] >> 4) << 2) | ((at[64] >> 4) << 4) | ((at[96] >> 4) << 6);
            out->qh[b] = static_cast<uint8_t>(high & keep);
        }
        out->scales[j] = static_cast<int8_t>(s.scale_levels[j] & keep);
        if (j == 0) out->d = static_cast<uint16_t>(s.empty ? 0 : s.d);
    }
};

}  // namespace apex::cuda
