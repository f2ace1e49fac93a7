// What IQ1_S and IQ1_M share: values sorted by rank, and grid points once the split is known.
#pragma once

#include "cuda/grid.cuh"

namespace apex::cuda {

// Values of the levels: shifted up or down by IQ1S_DELTA = IQ1M_DELTA = 0.125.
inline constexpr float kDelta = 0.125f;

APEX_HD float level_value(int level, bool down) {
    return static_cast<float>(level - 1) + (down ? -kDelta : kDelta);
}

// Ranks of the values of a sub-block, a byte each. ggml sorts with qsort and a comparator that
// leaves equal values (and -0 next to +0) in any order; glibc's qsort is a stable merge sort, which
// is the order of (value, index).
template <int N>
struct Ranks {
    uint32_t words[N / 4] = {};

    APEX_HD explicit Ranks(const float (&x)[N]) {
        APEX_UNROLL
        for (int i = 1; i < N; ++i) {
            APEX_UNROLL
            for (int j = 0; j < i; ++j) {
                const bool after = x[j] <= x[i];
                words[i / 4] += after ? 1u << (8 * (i % 4)) : 0u;
                words[j / 4] += after ? 0u : 1u << (8 * (j % 4));
            }
        }
    }

    APEX_HD int operator[](int i) const {
        return static_cast<int>(words[i / 4] >> (8 * (i % 4))) & 0xff;
    }
};

// The best split found so far: levels are 0 before rank i1, 1 before i2, then 2.
struct Split {
    float score = -FLT_MAX;
    float scale;
    int i1 = -1;
    int i2 = -1;
    int signs = 0;  // which of the two shifts, per group

    // One candidate, taken over where it scores strictly higher.
    APEX_HD void offer(float sumqx, float sumq2, int at1, int at2, int candidate_signs) {
        if (!(sumq2 > 0.0f && sumqx * sumqx > score * sumq2)) return;
        scale = sumqx / sumq2;
        score = scale * sumqx;
        i1 = at1;
        i2 = at2;
        signs = candidate_signs;
    }
};

// A grid point per group of eight values, and the scale, fitted again where a group was off the
// grid. Twin of the second half of the sub-block loops of quantize_row_iq1_s_impl and _iq1_m_impl.
template <int N>
struct Iq1Points {
    static constexpr int kGroups = N / 8;
    uint32_t codes[kGroups] = {};
    float scale = 0.0f;
    bool overflow = false;

    // flip: levels counted from the top. down: bit g for a group whose values are shifted down.
    template <typename Lane>
    APEX_HD void assign(const float (&x)[N], const float (&w)[N], const Ranks<N>& ranks,
                        const Split& split, bool flip, uint32_t down, const Grid& grid,
                        Lane costs) {
        scale = flip ? -split.scale : split.scale;
        bool moved = false;
        APEX_UNROLL
        for (int g = 0; g < kGroups; ++g) {
            int rank = 0, power = 1;
            APEX_UNROLL
            for (int i = 0; i < 8; ++i, power *= 3) {
                const int r = ranks[8 * g + i];
                const int level = (r >= split.i1 ? 1 : 0) + (r >= split.i2 ? 1 : 0);
                rank += (flip ? 2 - level : level) * power;
            }
            codes[g] = grid.by_rank[rank];
            if (!(codes[g] & kOffGrid)) continue;
            moved = true;
            APEX_UNROLL
            for (int i = 0; i < 8; ++i) {
                APEX_UNROLL
                for (int l = 0; l < 3; ++l) {
                    const float q = level_value(l, (down >> g) & 1u);
                    const float diff = scale * q - x[8 * g + i];
                    costs[3 * i + l] = w[8 * g + i] * diff * diff;
                }
            }
            codes[g] = cheapest_candidate<2>(grid, codes[g], costs);
            if (codes[g] == kNoCode) {
                overflow = true;
                codes[g] = 0;
            }
        }
        if (moved) fit(x, w, down);
        // ggml asserts scale >= 0.
        if (scale != scale) overflow = true;
    }

  private:
    APEX_HD void fit(const float (&x)[N], const float (&w)[N], uint32_t down) {
        float sumqx = 0.0f, sumq2 = 0.0f;
        APEX_UNROLL
        for (int i = 0; i < N; ++i) {
            const float q =
                level_value(GridShape<2>::level(codes[i / 8], i % 8), (down >> (i / 8)) & 1u);
            sumqx += w[i] * q * x[i];
            sumq2 += w[i] * q * q;
        }
        if (sumqx > 0.0f && sumq2 > 0.0f) scale = sumqx / sumq2;
    }
};

template <int N>
APEX_HD float largest_absolute(const float (&x)[N]) {
    float largest = 0.0f;
    APEX_UNROLL
    for (int i = 0; i < N; ++i) largest = larger(largest, absolute(x[i]));
    return largest;
}

// clamp(nearest_int((inverse * scale - 1) / 2), 0, 7): the three bits of a sub-block's scale.
APEX_HD int32_t iq1_scale_level(float inverse, float scale) {
    return clamp(nearest_int(0.5f * (inverse * scale - 1.0f)), 0, 7);
}

}  // namespace apex::cuda
