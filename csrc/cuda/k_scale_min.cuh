// Q4_K and Q5_K: eight sub-blocks of 32 weights, each with a 6-bit scale and a 6-bit minimum.
// Scalar twins: quantize_row_q4_K_impl, quantize_row_q5_K_impl (with a matrix),
// quantize_row_q4_K_ref, quantize_row_q5_K_ref (without).
#pragma once

#include "cuda/search_positive_scale.cuh"
#include "cuda/search_scale_min.cuh"
#include "cuda/super_block.cuh"

namespace apex::cuda {

// Bits: 4 or 5. Both blocks are d, dmin, scales, [qh,] qs.
template <int Bits, typename AnyBlock, bool WithMatrix>
struct KScaleMin {
    using Block = AnyBlock;
    static constexpr int kSubBlocks = 8;
    static constexpr int kLength = 32;
    static constexpr int kLaneFloats = 0;
    static constexpr bool kSums = WithMatrix;
    static constexpr bool kFits = false;
    static constexpr bool kCodebook = false;
    static constexpr int kMax = (1 << Bits) - 1;

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

        // Byte b of the block's scales: the inverse of get_scale_min_k4, kept to the byte also for
        // values beyond six bits, which ggml lets overflow into their neighbours.
        APEX_HD int packed(int b) const {
            if (b < 4) return (scale_levels[b] | ((scale_levels[b + 4] >> 4) << 6)) & 0xff;
            if (b < 8) return (min_levels[b - 4] | ((min_levels[b] >> 4) << 6)) & 0xff;
            return (scale_levels[b - 4] & 0xF) | ((min_levels[b - 4] & 0xF) << 4);
        }
    };

    template <typename Lane>
    APEX_HD static void find(Thread& t, int j, const float* imatrix, float sum, Lane, const Tables&,
                             Scratch& s) {
        constexpr ScaleSteps kSteps = WithMatrix  ? ScaleSteps{-0.9f, 0.05f, 36}
                                      : Bits == 4 ? ScaleSteps{-1.0f, 0.1f, 20}
                                                  : ScaleSteps{-0.5f, 0.1f, 15};
        float w[kLength];
        const float sigma2 = 2.0f * sum / 256.0f;
        const float average = WithMatrix ? 0.0f : sqrtf(add_squares<kLength>(0.0f, t.x) / 32.0f);
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            w[i] = WithMatrix ? importance_weight(t.x[i], imatrix[i], sigma2)
                              : average + absolute(t.x[i]);
        }
        t.found = search_scale_min<kLength, false>(t.x, w, kMax, kSteps);
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
            search_positive_scale<kSubBlocks>(values, s.sums, 63);
        APEX_UNROLL
        for (int k = 0; k < kSubBlocks; ++k) {
            // Only Q5_K caps: without a cap a negative level stays the byte it wrapped to.
            const int32_t l = Bits == 5 && found.levels[k] > 63 ? 63 : found.levels[k];
            (j == 0 ? s.scale_levels : s.min_levels)[k] = static_cast<uint8_t>(l);
        }
        (j == 0 ? s.d : s.dmin) = half_of(found.scale);
    }

    // Scales and minima as fractions of their maximum.
    APEX_HD static void combine_plain(Thread& t, int j, Scratch& s) {
        float max_scale = 0.0f, max_min = 0.0f;
        APEX_UNROLL
        for (int k = 0; k < kSubBlocks; ++k) {
            max_scale = s.scales[k] > max_scale ? s.scales[k] : max_scale;
            max_min = s.mins[k] > max_min ? s.mins[k] : max_min;
        }
        const float inv_scale = max_scale > 0.0f ? 63.0f / max_scale : 0.0f;
        const float inv_min = max_min > 0.0f ? 63.0f / max_min : 0.0f;
        const int32_t ls = nearest_int(inv_scale * t.found.scale) & 0xff;
        const int32_t lm = nearest_int(inv_min * t.found.the_min) & 0xff;
        s.scale_levels[j] = static_cast<uint8_t>(ls < 63 ? ls : 63);
        s.min_levels[j] = static_cast<uint8_t>(lm < 63 ? lm : 63);
        if (j == 0) {
            s.d = half_of(max_scale / 63.0f);
            s.dmin = half_of(max_min / 63.0f);
        }
    }

    // A sub-block whose scale is zero keeps the levels of the search.
    APEX_HD static void choose(Thread& t, int j, FitSums, const Tables&, Scratch& s) {
        int scale, min_value;
        if (j < 4) {
            scale = s.packed(j) & 63;
            min_value = s.packed(j + 4) & 63;
        } else {
            scale = (s.packed(j + 4) & 0xF) | ((s.packed(j - 4) >> 6) << 4);
            min_value = (s.packed(j + 4) >> 4) | ((s.packed(j) >> 6) << 4);
        }
        const float d = float_of_half(s.d) * scale;
        const float dm = float_of_half(s.dmin) * min_value;
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            const int32_t l = d == 0.0f ? t.found.level(t.x[i], kMax)
                                        : clamp(nearest_int((t.x[i] + dm) / d), 0, kMax);
            s.levels[kLength * j + i] = static_cast<uint8_t>(l);
        }
    }

    // qs: low nibbles of weights 64 n + i and 64 n + 32 + i share a byte. qh: bit n of byte i is
    // the fifth bit of weight 32 n + i.
    APEX_HD static void pack(int j, const Scratch& s, const Tables&, Block* out) {
        for (int b = 16 * j; b < 16 * j + 16; ++b) {
            const uint8_t* at = s.levels + 64 * (b / 32) + b % 32;
            out->qs[b] = static_cast<uint8_t>((at[0] & 0xF) | (at[32] << 4));
        }
        if constexpr (Bits == 5) {
            for (int b = 4 * j; b < 4 * j + 4; ++b) {
                int byte = 0;
                for (int n = 0; n < 8; ++n) byte |= (s.levels[32 * n + b] >> 4) << n;
                out->qh[b] = static_cast<uint8_t>(byte);
            }
        }
        if (j != 0) return;
        for (int b = 0; b < 12; ++b) out->scales[b] = static_cast<uint8_t>(s.packed(b));
        out->GGML_COMMON_AGGR_U.dm = s.d | static_cast<uint32_t>(s.dmin) << 16;
    }
};

template <bool WithMatrix>
using Q4_K = KScaleMin<4, block_q4_K, WithMatrix>;
template <bool WithMatrix>
using Q5_K = KScaleMin<5, block_q5_K, WithMatrix>;

}  // namespace apex::cuda
