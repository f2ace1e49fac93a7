// Q3_K: sixteen sub-blocks of 16 weights, each with a signed 6-bit scale.
// Scalar twins: quantize_row_q3_K_impl (with a matrix), quantize_row_q3_K_ref and make_q3_quants
// (without).
#pragma once

#include "cuda/q2_k.cuh"
#include "cuda/search_signed_scale.cuh"

namespace apex::cuda {

// make_q3_quants: coordinate descent from the plain rounding. levels: 0..7. Returns the scale.
template <int N>
APEX_HD float descend_signed(const float (&x)[N], int nmax, uint8_t (&levels)[N]) {
    float amax;
    const float largest = largest_magnitude(x, &amax);
    APEX_UNROLL
    for (int i = 0; i < N; ++i) levels[i] = 0;
    if (amax < kGroupMaxEps) return 0.0f;
    const auto low = static_cast<float>(-nmax);
    const float inverse = low / largest;
    float sumlx = 0.0f, suml2 = 0.0f;
    float l[N];
    APEX_UNROLL
    for (int i = 0; i < N; ++i) {
        l[i] = nearest_clamped(inverse * x[i], low, static_cast<float>(nmax - 1));
        const float w = x[i] * x[i];
        sumlx += w * x[i] * l[i];
        suml2 += w * l[i] * l[i];
    }
    bool changed = true;
    APEX_ROLLED
    for (int pass = 0; pass < 5 && changed; ++pass) {
        changed = false;
        APEX_UNROLL
        for (int i = 0; i < N; ++i) {
            const float w = x[i] * x[i];
            float slx = sumlx - w * x[i] * l[i];
            if (!(slx > 0.0f)) continue;
            float sl2 = suml2 - w * l[i] * l[i];
            const int32_t rounded = clamp(nearest_int(x[i] * sl2 / slx), -nmax, nmax - 1);
            const auto new_l = static_cast<float>(rounded);
            if (new_l == l[i]) continue;
            slx += w * x[i] * new_l;
            sl2 += w * new_l * new_l;
            if (sl2 > 0.0f && slx * slx * suml2 > sumlx * sumlx * sl2) {
                l[i] = new_l;
                sumlx = slx;
                suml2 = sl2;
                changed = true;
            }
        }
    }
    APEX_UNROLL
    for (int i = 0; i < N; ++i) levels[i] = static_cast<uint8_t>(static_cast<int>(l[i]) + nmax);
    return suml2 > 0.0f ? sumlx / suml2 : 0.0f;
}

template <bool WithMatrix>
struct Q3_K {
    using Block = block_q3_K;
    static constexpr int kSubBlocks = 16;
    static constexpr int kLength = 16;
    static constexpr int kLaneFloats = 0;
    static constexpr bool kSums = WithMatrix;
    static constexpr bool kFits = false;
    static constexpr bool kCodebook = false;
    static constexpr int kMax = 4;

    struct Thread {
        float x[kLength];
        SignedScale found;
        bool overflow;
    };
    struct Scratch {
        float scales[kSubBlocks], sums[kSubBlocks];
        uint8_t scale_levels[kSubBlocks];  // 0..63, that is scale + 32
        uint8_t levels[kSuperBlock];
        uint16_t d;
    };

    template <typename Lane>
    APEX_HD static void find(Thread& t, int j, const float* imatrix, float sum, Lane, const Tables&,
                             Scratch& s) {
        if constexpr (WithMatrix) {
            float w[kLength];
            const float sigma2 = 2.0f * sum / 256.0f;
            APEX_UNROLL
            for (int i = 0; i < kLength; ++i) w[i] = importance_weight(t.x[i], imatrix[i], sigma2);
            t.found = search_signed_scale(t.x, w, kMax);
            s.sums[j] = serial_sum(w);
            s.scales[j] = t.found.scale;
        } else {
            uint8_t levels[kLength];
            s.scales[j] = descend_signed(t.x, kMax, levels);
            APEX_UNROLL
            for (int i = 0; i < kLength; ++i) s.levels[kLength * j + i] = levels[i];
        }
    }

    APEX_HD static void combine(Thread&, int j, Scratch& s) {
        if (WithMatrix) {
            if (j == 0) combine_weighted(s);
        } else {
            combine_plain(j, s);
        }
    }

    // A weighted search over the scales.
    APEX_HD static void combine_weighted(Scratch& s) {
        const SignedScale block = search_signed_scale(s.scales, s.sums, 32);
        APEX_UNROLL
        for (int k = 0; k < kSubBlocks; ++k) {
            s.scale_levels[k] = static_cast<uint8_t>(block.level(s.scales[k], 32));
        }
        s.d = half_of(block.scale);
    }

    APEX_HD static void combine_plain(int j, Scratch& s) {
        float amax = 0.0f, max_scale = 0.0f;
        APEX_UNROLL
        for (int k = 0; k < kSubBlocks; ++k) {
            if (absolute(s.scales[k]) > amax) {
                amax = absolute(s.scales[k]);
                max_scale = s.scales[k];
            }
        }
        const float inverse = -32.0f / max_scale;
        // ggml keeps the rounded scale in an int8 before it clamps.
        const auto l = static_cast<int8_t>(nearest_int(inverse * s.scales[j]));
        s.scale_levels[j] = static_cast<uint8_t>(max_scale != 0.0f ? clamp(l, -32, 31) + 32 : 0);
        if (j == 0) s.d = half_of(max_scale != 0.0f ? 1.0f / inverse : 0.0f);
    }

    // A sub-block whose scale is zero keeps the levels of the search, which without a matrix are in
    // place already.
    APEX_HD static void choose(Thread& t, int j, FitSums, const Tables&, Scratch& s) {
        const float d = float_of_half(s.d) * (s.scale_levels[j] - 32);
        if (d == 0.0f && !WithMatrix) return;
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            const int32_t l = d == 0.0f ? t.found.level(t.x[i], kMax)
                                        : clamp(nearest_int(t.x[i] / d), -kMax, kMax - 1) + kMax;
            s.levels[kLength * j + i] = static_cast<uint8_t>(l);
        }
    }

    // Bit n of hmask byte i is the high bit of weight 32 n + i. Low nibbles of scales j and j + 8
    // share a byte; the last four bytes take the upper two bits.
    APEX_HD static void pack(int j, const Scratch& s, const Tables&, Block* out) {
        for (int b = 4 * j; b < 4 * j + 4; ++b) out->qs[b] = four_low_pairs(s.levels, b);
        for (int b = 2 * j; b < 2 * j + 2; ++b) {
            int byte = 0;
            for (int n = 0; n < 8; ++n) byte |= (s.levels[32 * n + b] >> 2) << n;
            out->hmask[b] = static_cast<uint8_t>(byte);
        }
        const uint8_t* sc = s.scale_levels;
        if (j < 8) {
            out->scales[j] = static_cast<uint8_t>((sc[j] & 0xF) | ((sc[j + 8] & 0xF) << 4));
        } else if (j < 12) {
            const int b = j - 8;
            out->scales[j] =
                static_cast<uint8_t>((sc[b] >> 4) | ((sc[b + 4] >> 4) << 2) |
                                     ((sc[b + 8] >> 4) << 4) | ((sc[b + 12] >> 4) << 6));
        }
        if (j == 0) out->d = s.d;
    }
};

}  // namespace apex::cuda
