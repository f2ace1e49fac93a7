// IQ1_M: sub-blocks of 16 weights with three levels; each half is shifted up or down.
// Scalar twin: quantize_row_iq1_m_impl.
#pragma once

#include "cuda/iq1_block.cuh"
#include "cuda/super_block.cuh"

namespace apex::cuda {

template <bool WithMatrix>
struct Iq1M {
    using Block = block_iq1_m;
    static constexpr int kLength = 16;
    static constexpr int kSubBlocks = 16;
    static constexpr int kSumFloats = 4 * (kLength + 1);
    static constexpr int kLaneFloats = kSumFloats + GridShape<2>::kCosts;
    static constexpr bool kSums = WithMatrix;
    static constexpr bool kFits = true;
    static constexpr bool kCodebook = false;

    struct Thread {
        float x[kLength];
        float w[kLength];
        uint32_t codes[2];
        int shifts;  // bit 1: first half down, bit 0: second half down
        int level;   // of the scale
        bool overflow;
    };
    struct Scratch {
        float scales[kSubBlocks];
        uint16_t indices[2 * kSubBlocks];
        uint8_t levels[kSubBlocks], shifts[kSubBlocks];
        bool empty;
        uint16_t d;
    };

    // Sums over the values before each rank, per half of the sub-block.
    template <typename Lane>
    struct HalfSums {
        Lane x[2], w[2];

        APEX_HD explicit HalfSums(Lane lane)
            : x{lane, lane.from(kLength + 1)},
              w{lane.from(2 * (kLength + 1)), lane.from(3 * (kLength + 1))} {}

        APEX_HD void fill(const Thread& t, const Ranks<kLength>& ranks) {
            uint32_t second_half = 0;  // by rank
            APEX_UNROLL
            for (int i = 0; i < kLength; ++i) {
                x[0][ranks[i] + 1] = t.w[i] * t.x[i];
                w[0][ranks[i] + 1] = t.w[i];
                if (i >= kLength / 2) second_half |= 1u << ranks[i];
            }
            float sx[2] = {0.0f, 0.0f}, sw[2] = {0.0f, 0.0f};
            x[0][0] = x[1][0] = w[0][0] = w[1][0] = 0.0f;
            APEX_ROLLED
            for (int r = 0; r < kLength; ++r) {
                const bool second = (second_half >> r) & 1u;
                const float dx = x[0][r + 1], dw = w[0][r + 1];
                sx[0] = second ? sx[0] : sx[0] + dx;
                sx[1] = second ? sx[1] + dx : sx[1];
                sw[0] = second ? sw[0] : sw[0] + dw;
                sw[1] = second ? sw[1] + dw : sw[1];
                x[0][r + 1] = sx[0];
                x[1][r + 1] = sx[1];
                w[0][r + 1] = sw[0];
                w[1][r + 1] = sw[1];
            }
        }
    };

    // Tries all splits of the sorted values into three levels, with the four pairs of shifts.
    template <typename Lane>
    APEX_HD static Split search(const HalfSums<Lane>& sums, float start_scale) {
        constexpr float u0 = -1 + kDelta, u1 = kDelta, u2 = 1 + kDelta;
        constexpr float d0 = -1 - kDelta, d1 = -kDelta, d2 = 1 - kDelta;
        constexpr float up_first = u0 * u0 - u1 * u1, up_second = u1 * u1 - u2 * u2;
        constexpr float down_first = d0 * d0 - d1 * d1, down_second = d1 * d1 - d2 * d2;
        Split best;
        best.scale = start_scale;
        float x_up[2], x_down[2], w_up[2], w_down[2];  // the terms of all weights
        APEX_UNROLL
        for (int h = 0; h < 2; ++h) {
            const float all_x = sums.x[h][kLength], all_w = sums.w[h][kLength];
            x_up[h] = all_x * u2;
            x_down[h] = all_x * d2;
            w_up[h] = all_w * u2 * u2;
            w_down[h] = all_w * d2 * d2;
        }
        APEX_ROLLED
        for (int i1 = 0; i1 <= kLength; ++i1) {
            float x1[2], first_up[2], first_down[2];
            APEX_UNROLL
            for (int h = 0; h < 2; ++h) {
                x1[h] = sums.x[h][i1];
                first_up[h] = w_up[h] + sums.w[h][i1] * up_first;
                first_down[h] = w_down[h] + sums.w[h][i1] * down_first;
            }
            APEX_ROLLED
            for (int i2 = i1; i2 <= kLength; ++i2) {
                float qx_up[2], qx_down[2], q2_up[2], q2_down[2];
                APEX_UNROLL
                for (int h = 0; h < 2; ++h) {
                    const float sx = x1[h] + sums.x[h][i2];
                    const float w2 = sums.w[h][i2];
                    qx_up[h] = x_up[h] - sx;
                    qx_down[h] = x_down[h] - sx;
                    q2_up[h] = first_up[h] + w2 * up_second;
                    q2_down[h] = first_down[h] + w2 * down_second;
                }
                best.offer(qx_up[0] + qx_up[1], q2_up[0] + q2_up[1], i1, i2, 0);
                best.offer(qx_up[0] + qx_down[1], q2_up[0] + q2_down[1], i1, i2, 1);
                best.offer(qx_down[0] + qx_up[1], q2_down[0] + q2_up[1], i1, i2, 2);
                best.offer(qx_down[0] + qx_down[1], q2_down[0] + q2_down[1], i1, i2, 3);
            }
        }
        return best;
    }

    // Bit g: group g is shifted down.
    APEX_HD static uint32_t down_groups(int shifts) {
        return static_cast<uint32_t>(((shifts >> 1) & 1) | ((shifts & 1) << 1));
    }

    template <typename Lane>
    APEX_HD static void find(Thread& t, int j, const float* imatrix, float sum, Lane lane,
                             const Tables& tables, Scratch& s) {
        const float sigma2 = 2.0f * sum / 256.0f;
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            t.w[i] = WithMatrix ? importance_weight(t.x[i], imatrix[i], sigma2) : t.x[i] * t.x[i];
        }
        const float largest = largest_absolute(t.x);
        Iq1Points<kLength> points;
        t.shifts = 0;
        if (!(largest < 1e-7f)) {  // GROUP_MAX_EPS_IQ1_M
            const Ranks<kLength> ranks(t.x);
            HalfSums<Lane> sums(lane);
            sums.fill(t, ranks);
            const Split split = search(sums, largest);
            if (split.i1 >= 0) {
                const bool flip = split.scale < 0.0f;
                t.shifts = flip ? split.signs ^ 3 : split.signs;
                points.assign(t.x, t.w, ranks, split, flip, down_groups(t.shifts), tables.grid,
                              lane.from(kSumFloats));
            }
        }
        t.overflow = points.overflow;
        s.scales[j] = points.scale;
        APEX_UNROLL
        for (int g = 0; g < 2; ++g) {
            t.codes[g] = points.codes[g];
            s.indices[2 * j + g] = tables.grid.index_of_code[points.codes[g]];
        }
    }

    // The largest scale, as a serial maximum over the sub-blocks.
    APEX_HD static float largest_scale(const Scratch& s) {
        float largest = 0.0f;
        APEX_UNROLL
        for (int k = 0; k < kSubBlocks; ++k) largest = larger(largest, s.scales[k]);
        return largest;
    }

    APEX_HD static void combine(Thread& t, int j, Scratch& s) {
        const float largest = largest_scale(s);
        t.level = iq1_scale_level(1.0f / (largest / 15.0f), s.scales[j]);
        s.levels[j] = static_cast<uint8_t>(t.level);
        s.shifts[j] = static_cast<uint8_t>(t.shifts);
        if (j == 0) s.empty = largest == 0.0f;
    }

    APEX_HD static FitSums add_fit(const Thread& t, FitSums sums) {
        const auto factor = static_cast<float>(2 * t.level + 1);
        const uint32_t down = down_groups(t.shifts);
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            const int level = GridShape<2>::level(t.codes[i / 8], i % 8);
            const float q = level_value(level, (down >> (i / 8)) & 1u) * factor;
            sums.qx += t.w[i] * q * t.x[i];
            sums.q2 += t.w[i] * q * q;
        }
        return sums;
    }

    APEX_HD static void choose(Thread&, int j, FitSums sums, const Tables&, Scratch& s) {
        if (j != 0) return;
        const float d = sums.q2 > 0.0f ? sums.qx / sums.q2 : largest_scale(s) / 15.0f;
        s.d = half_of(d * 1.1125f);
    }

    // The four nibbles of d are the top nibbles of the four scale words.
    APEX_HD static void pack(int j, const Scratch& s, const Tables&, Block* out) {
        const int index0 = s.indices[2 * j], index1 = s.indices[2 * j + 1];
        const int shifts = s.empty ? 0 : s.shifts[j];
        out->qs[2 * j] = static_cast<uint8_t>(index0 & 255);
        out->qs[2 * j + 1] = static_cast<uint8_t>(index1 & 255);
        const int high = (index0 >> 8) | ((index1 >> 8) << 4);
        out->qh[j] = static_cast<uint8_t>(high | ((shifts & 2) << 2) | ((shifts & 1) << 7));
        if (j % 4 != 0) return;
        uint32_t word = ((static_cast<uint32_t>(s.d) >> j) & 0xFu) << 12;
        for (int b = 0; b < 4; ++b) word |= static_cast<uint32_t>(s.levels[j + b]) << (3 * b);
        word = s.empty ? 0 : word;
        out->scales[j / 2] = static_cast<uint8_t>(word & 0xffu);
        out->scales[j / 2 + 1] = static_cast<uint8_t>(word >> 8);
    }
};

}  // namespace apex::cuda
