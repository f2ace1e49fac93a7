// Q2_K: sixteen sub-blocks of 16 weights, each with a 4-bit scale and a 4-bit minimum.
// Scalar twins: quantize_row_q2_K_impl (with a matrix), quantize_row_q2_K_ref (without).
#pragma once

#include "cuda/search_positive_scale.cuh"
#include "cuda/search_scale_min.cuh"
#include "cuda/super_block.cuh"

namespace apex::cuda {

// qs of Q2_K and Q3_K: byte i of half h holds two bits each of weights 128 h + i, + 32, + 64, + 96.
APEX_HD uint8_t four_low_pairs(const uint8_t* levels, int b) {
    const uint8_t* at = levels + 128 * (b / 32) + b % 32;
    return static_cast<uint8_t>((at[0] & 3) | ((at[32] & 3) << 2) | ((at[64] & 3) << 4) |
                                ((at[96] & 3) << 6));
}

template <bool WithMatrix>
struct Q2_K {
    using Block = block_q2_K;
    static constexpr int kSubBlocks = 16;
    static constexpr int kLength = 16;
    static constexpr int kLaneFloats = 0;
    static constexpr bool kSums = WithMatrix;
    static constexpr bool kFits = false;
    static constexpr bool kCodebook = false;
    static constexpr int kMax = 3;

    struct Thread {
        float x[kLength];
        ScaleMin found;
        bool overflow;
    };
    struct Scratch {
        float scales[kSubBlocks], mins[kSubBlocks], sums[kSubBlocks];
        uint8_t scale_levels[kSubBlocks], min_levels[kSubBlocks];
        uint8_t levels[kSuperBlock];
        uint16_t d, dmin;

        // The scale in the low nibble, the minimum in the high one.
        APEX_HD int packed(int j) const { return (scale_levels[j] | (min_levels[j] << 4)) & 0xff; }
    };

    template <typename Lane>
    APEX_HD static void find(Thread& t, int j, const float* imatrix, float sum, Lane, const Tables&,
                             Scratch& s) {
        constexpr ScaleSteps kSteps =
            WithMatrix ? ScaleSteps{-0.9f, 0.05f, 36} : ScaleSteps{-0.5f, 0.1f, 15};
        float w[kLength];
        const float sigma2 = sum / 256.0f;
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            w[i] = WithMatrix ? importance_weight(t.x[i], imatrix[i], sigma2) : absolute(t.x[i]);
        }
        t.found = search_scale_min<kLength, !WithMatrix>(t.x, w, kMax, kSteps);
        t.overflow = t.found.out_of_range;
        s.scales[j] = t.found.scale;
        s.mins[j] = t.found.the_min;
        if (WithMatrix) s.sums[j] = serial_sum(w);
    }

    APEX_HD static void combine(Thread& t, int j, Scratch& s) {
        if (WithMatrix) {
            combine_weighted(j, s);
        } else {
            combine_plain(t, j, s);
        }
    }

    // A weighted search over the scales, by thread 0, and over the minima, by thread 1.
    APEX_HD static void combine_weighted(int j, Scratch& s) {
        if (j > 1) return;
        const auto& values = j == 0 ? s.scales : s.mins;
        const PositiveScale<kSubBlocks> found =
            search_positive_scale<kSubBlocks>(values, s.sums, 15);
        APEX_UNROLL
        for (int k = 0; k < kSubBlocks; ++k) {
            (j == 0 ? s.scale_levels : s.min_levels)[k] = static_cast<uint8_t>(found.levels[k]);
        }
        (j == 0 ? s.d : s.dmin) = half_of(found.scale);
    }

    APEX_HD static void combine_plain(Thread& t, int j, Scratch& s) {
        float max_scale = 0.0f, max_min = 0.0f;
        APEX_UNROLL
        for (int k = 0; k < kSubBlocks; ++k) {
            max_scale = s.scales[k] > max_scale ? s.scales[k] : max_scale;
            max_min = s.mins[k] > max_min ? s.mins[k] : max_min;
        }
        const float inv_scale = 15.0f / max_scale;
        const float inv_min = 15.0f / max_min;
        const int32_t ls = max_scale > 0.0f ? nearest_int(inv_scale * t.found.scale) : 0;
        const int32_t lm = max_min > 0.0f ? nearest_int(inv_min * t.found.the_min) : 0;
        s.scale_levels[j] = static_cast<uint8_t>(ls);
        s.min_levels[j] = static_cast<uint8_t>(lm);
        if (j == 0) {
            s.d = half_of(max_scale > 0.0f ? max_scale / 15.0f : 0.0f);
            s.dmin = half_of(max_min > 0.0f ? max_min / 15.0f : 0.0f);
        }
    }

    // A sub-block whose scale is zero keeps the levels of the search.
    APEX_HD static void choose(Thread& t, int j, FitSums, const Tables&, Scratch& s) {
        const float d = float_of_half(s.d) * (s.packed(j) & 0xF);
        const float dm = float_of_half(s.dmin) * (s.packed(j) >> 4);
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            const int32_t l = d == 0.0f ? t.found.level(t.x[i], kMax)
                                        : clamp(nearest_int((t.x[i] + dm) / d), 0, kMax);
            s.levels[kLength * j + i] = static_cast<uint8_t>(l);
        }
    }

    APEX_HD static void pack(int j, const Scratch& s, const Tables&, Block* out) {
        for (int b = 4 * j; b < 4 * j + 4; ++b) out->qs[b] = four_low_pairs(s.levels, b);
        out->scales[j] = static_cast<uint8_t>(s.packed(j));
        if (j == 0) {
            out->GGML_COMMON_AGGR_U.dm = s.d | static_cast<uint32_t>(s.dmin) << 16;
        }
    }
};

}  // namespace apex::cuda
