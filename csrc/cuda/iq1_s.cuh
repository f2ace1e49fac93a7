// IQ1_S: sub-blocks of 32 weights with three levels, all shifted up or all down.
// Scalar twin: quantize_row_iq1_s_impl.
#pragma once

#include "cuda/iq1_block.cuh"
#include "cuda/super_block.cuh"

namespace apex::cuda {

template <bool>
struct Iq1S {
    using Block = block_iq1_s;
    static constexpr int kLength = 32;
    static constexpr int kSubBlocks = 8;
    static constexpr int kGroups = kLength / 8;
    static constexpr int kLaneFloats = 2 * (kLength + 1) + GridShape<2>::kCosts;
    static constexpr bool kSums = true;
    static constexpr bool kFits = false;
    static constexpr bool kCodebook = false;

    struct Thread {
        float x[kLength];
        bool overflow;
    };
    struct Scratch {
        float scales[kSubBlocks];
        uint16_t indices[kSubBlocks * kGroups];
        uint8_t levels[kSubBlocks];  // of the scales, with the shift as bit 3
        bool down[kSubBlocks];
        uint16_t d;
    };

    // Sums of w x and w over the values before each rank.
    template <typename Lane>
    APEX_HD static void sum_ranks(const Thread& t, const float (&w)[kLength],
                                  const Ranks<kLength>& ranks, Lane sumx, Lane sumw) {
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            sumx[ranks[i] + 1] = w[i] * t.x[i];
            sumw[ranks[i] + 1] = w[i];
        }
        float x = 0.0f, weight = 0.0f;
        sumx[0] = sumw[0] = 0.0f;
        APEX_ROLLED
        for (int r = 1; r <= kLength; ++r) {
            x += sumx[r];
            weight += sumw[r];
            sumx[r] = x;
            sumw[r] = weight;
        }
    }

    // Tries all splits of the sorted values into three levels, with both shifts.
    template <typename Lane>
    APEX_HD static Split search(Lane sumx, Lane sumw, float start_scale) {
        constexpr float kUp0 = -1 + kDelta, kUp1 = kDelta, kUp2 = 1 + kDelta;
        constexpr float kDown0 = -1 - kDelta, kDown2 = 1 - kDelta;
        Split best;
        best.scale = start_scale;
        const float all_x = sumx[kLength], all_w = sumw[kLength];
        APEX_ROLLED
        for (int i1 = 0; i1 <= kLength; ++i1) {
            const float x1 = sumx[i1], w1 = sumw[i1];
            APEX_ROLLED
            for (int i2 = i1; i2 <= kLength; ++i2) {
                const float x2 = sumx[i2], w2 = sumw[i2];
                const float top_x = all_x - x2, top_w = all_w - w2;
                // The middle values are +-delta, so the middle terms differ in sign only.
                const float middle_x = (x2 - x1) * kUp1;
                const float middle_w = (w2 - w1) * kUp1 * kUp1;
                best.offer(x1 * kUp0 + middle_x + top_x * kUp2,
                           w1 * kUp0 * kUp0 + middle_w + top_w * kUp2 * kUp2, i1, i2, 0);
                best.offer(x1 * kDown0 - middle_x + top_x * kDown2,
                           w1 * kDown0 * kDown0 + middle_w + top_w * kDown2 * kDown2, i1, i2, 1);
            }
        }
        return best;
    }

    template <typename Lane>
    APEX_HD static void find(Thread& t, int j, const float* imatrix, float sum, Lane lane,
                             const Tables& tables, Scratch& s) {
        const float sigma2 = 2.0f * sum / 256.0f;
        const float largest = largest_absolute(t.x);
        Iq1Points<kLength> points;
        bool down = false;
        if (!(largest < 1e-12f)) {  // GROUP_MAX_EPS_IQ1_S
            float w[kLength];
            APEX_UNROLL
            for (int i = 0; i < kLength; ++i) w[i] = importance_weight(t.x[i], imatrix[i], sigma2);
            const Ranks<kLength> ranks(t.x);
            const Lane sumx = lane, sumw = lane.from(kLength + 1);
            sum_ranks(t, w, ranks, sumx, sumw);
            const Split split = search(sumx, sumw, largest);
            if (split.i1 >= 0) {
                const bool flip = split.scale < 0.0f;
                down = (split.signs == 1) != flip;
                points.assign(t.x, w, ranks, split, flip, down ? 15u : 0u, tables.grid,
                              lane.from(2 * (kLength + 1)));
            }
        }
        t.overflow = points.overflow;
        s.scales[j] = points.scale;
        s.down[j] = down;
        APEX_UNROLL
        for (int g = 0; g < kGroups; ++g) {
            s.indices[kGroups * j + g] = tables.grid.index_of_code[points.codes[g]];
        }
    }

    APEX_HD static void combine(Thread&, int j, Scratch& s) {
        float largest = 0.0f;
        APEX_UNROLL
        for (int k = 0; k < kSubBlocks; ++k) largest = larger(largest, s.scales[k]);
        const float d = largest / 15.0f;
        const int32_t l = iq1_scale_level(1.0f / d, s.scales[j]) | (s.down[j] ? 8 : 0);
        s.levels[j] = static_cast<uint8_t>(largest == 0.0f ? 0 : l);
        if (j == 0) s.d = half_of(d * 1.125f);
    }

    APEX_HD static void choose(Thread&, int, FitSums, const Tables&, Scratch&) {}

    APEX_HD static void pack(int j, const Scratch& s, const Tables&, Block* out) {
        int high = s.levels[j] << 12;
        for (int k = 0; k < kGroups; ++k) {
            const int index = s.indices[kGroups * j + k];
            out->qs[kGroups * j + k] = static_cast<uint8_t>(index & 255);
            high |= (index >> 8) << (3 * k);
        }
        out->qh[j] = static_cast<uint16_t>(high);
        if (j == 0) out->d = s.d;
    }
};

}  // namespace apex::cuda
