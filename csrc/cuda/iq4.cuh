// IQ4_NL (blocks of 32 weights) and IQ4_XS (super-blocks of eight such blocks with 6-bit scales).
// Scalar twin: quantize_row_iq4_nl_impl.
#pragma once

#include "cuda/super_block.cuh"

namespace apex::cuda {

// The best scale of 32 weights; 0 if all are (nearly) zero.
template <int N>
APEX_HD float search_codebook_scale(const float (&x)[N], const float (&w)[N],
                                    const CodebookCells& codebook) {
    constexpr int kTries = 7;
    constexpr float kLowest = -127.0f;
    float amax;
    const float largest = largest_magnitude(x, &amax);
    if (amax < kGroupMaxEps) return 0.0f;
    float sumqx, sumq2;
    // |inverse * x| <= 134 (1 + 2^-22), within the codebook's cells.
    const auto sums = [&](float inverse) {
        float qx = 0.0f, q2 = 0.0f;
        APEX_UNROLL
        for (int i = 0; i < N; ++i) {
            const float q = codebook.nearest_value(inverse * x[i]);
            const float wq = w[i] * q;
            qx += wq * x[i];
            q2 += wq * q;
        }
        sumqx = qx;
        sumq2 = q2;
    };
    sums(1.0f / (-largest / kLowest));
    float d = sumq2 > 0.0f ? sumqx / sumq2 : 0.0f;
    float best = d * sumqx;
    APEX_ROLLED
    for (int itry = -kTries; itry <= kTries; ++itry) {
        sums((itry + kLowest) / largest);
        if (sumq2 > 0.0f && sumqx * sumqx > best * sumq2) {
            d = sumqx / sumq2;
            best = d * sumqx;
        }
    }
    return d;
}

// Super: weights per super-block, 32 (IQ4_NL) or 256 (IQ4_XS).
template <typename AnyBlock, int Super, bool WithMatrix>
struct Iq4 {
    using Block = AnyBlock;
    static constexpr int kLength = 32;
    static constexpr int kSubBlocks = Super / kLength;
    static constexpr int kLaneFloats = 0;
    static constexpr bool kSums = WithMatrix;
    static constexpr bool kFits = false;
    static constexpr bool kCodebook = true;

    struct Thread {
        float x[kLength];
        float inverse;  // of the scale that the levels are for
        bool overflow;
    };
    struct Scratch {
        float scales[kSubBlocks];
        uint8_t scale_levels[kSubBlocks];
        uint8_t nibbles[Super / 2];
        uint16_t d;
    };

    template <typename Lane>
    APEX_HD static void find(Thread& t, int j, const float* imatrix, float sum, Lane,
                             const Tables& tables, Scratch& s) {
        float w[kLength];
        const float sigma2 = sum * (2.0f / Super);
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            w[i] = WithMatrix ? importance_weight(t.x[i], imatrix[i], sigma2) : t.x[i] * t.x[i];
        }
        s.scales[j] = search_codebook_scale(t.x, w, *tables.codebook);
    }

    APEX_HD static float inverse_or_zero(float d) { return d != 0.0f ? 1.0f / d : 0.0f; }

    APEX_HD static void combine(Thread& t, int j, Scratch& s) {
        if constexpr (kSubBlocks == 1) {
            t.inverse = inverse_or_zero(s.scales[0]);
            s.d = half_of(s.scales[0]);
        } else {
            float max_scale = 0.0f, amax = 0.0f;
            APEX_UNROLL
            for (int k = 0; k < kSubBlocks; ++k) {
                if (absolute(s.scales[k]) > amax) {
                    amax = absolute(s.scales[k]);
                    max_scale = s.scales[k];
                }
            }
            const float d = -max_scale / 32.0f;
            const int32_t l = clamp(nearest_int(inverse_or_zero(d) * s.scales[j]), -32, 31);
            t.inverse = inverse_or_zero(d * l);
            s.scale_levels[j] = static_cast<uint8_t>(l + 32);
            if (j == 0) s.d = half_of(d);
        }
    }

    // Weights i and i + 16 of a sub-block share byte i.
    APEX_HD static void choose(Thread& t, int j, FitSums, const Tables& tables, Scratch& s) {
        const CodebookCells& codebook = *tables.codebook;
        APEX_UNROLL
        for (int i = 0; i < kLength / 2; ++i) {
            const int32_t low = codebook.nearest_index(t.inverse * t.x[i]);
            const int32_t high = codebook.nearest_index(t.inverse * t.x[i + kLength / 2]);
            s.nibbles[16 * j + i] = static_cast<uint8_t>(low | (high << 4));
        }
    }

    APEX_HD static void pack(int j, const Scratch& s, const Tables&, Block* out) {
        for (int b = 16 * j; b < 16 * j + 16; ++b) out->qs[b] = s.nibbles[b];
        if (j == 0) out->d = s.d;
        if constexpr (kSubBlocks > 1) {
            if (j < 4) {
                const int low = s.scale_levels[2 * j] & 0xF;
                const int high = s.scale_levels[2 * j + 1] & 0xF;
                out->scales_l[j] = static_cast<uint8_t>(low | (high << 4));
            } else if (j == 4) {
                int bits = 0;
                for (int k = 0; k < kSubBlocks; ++k) bits |= (s.scale_levels[k] >> 4) << (2 * k);
                out->scales_h = static_cast<uint16_t>(bits);
            }
        }
    }
};

template <bool WithMatrix>
using Iq4Nl = Iq4<block_iq4_nl, 32, WithMatrix>;
template <bool WithMatrix>
using Iq4Xs = Iq4<block_iq4_xs, 256, WithMatrix>;

}  // namespace apex::cuda
