// The way from super-blocks to packed blocks that all IQ2 and IQ3 types share.
//
// A layout (iq2.cuh, iq3.cuh) supplies: Block, kBits (per level), kLength (weights per sub-block),
// kEvenSigns, kSigma (sigma2 is kSigma times the mean square), kEps (sub-blocks whose largest
// magnitude is below it are zero), kFudge (factor on d), kSteps, kRefit, start(), plain_weight()
// and pack().
#pragma once

#include "cuda/grid_search.cuh"
#include "cuda/super_block.cuh"

namespace apex::cuda {

// What the sub-blocks leave for packing. Indices are per group of a grid point, signs per group of
// eight weights.
template <int Bits, int SubBlocks>
struct GridScratch {
    static constexpr int kGroups = kSuperBlock / GridShape<Bits>::kPositions;

    float scales[SubBlocks];
    uint16_t indices[kGroups];
    uint8_t signs[kSuperBlock / 8];
    uint8_t levels[SubBlocks];  // of the scales
    bool zero[SubBlocks];       // too small to search
    bool empty;                 // nothing but zero scales
    uint16_t d;
};

// Writes the magnitudes of eight values; returns their signs, one bit each (-0 is positive).
template <typename X, typename Lane>
APEX_HD uint32_t split_signs(const X& x, int first, Lane magnitudes) {
    uint32_t signs = 0;
    APEX_UNROLL
    for (int i = 0; i < 8; ++i) {
        const float xi = x[first + i];
        const bool keep = xi >= 0.0f;
        magnitudes[first + i] = keep ? xi : -xi;
        signs |= keep ? 0u : 1u << i;
    }
    return signs;
}

// For types that store seven bits and make the number of negative signs even: where it is odd, the
// value that matters least, the first with the smallest w x^2, changes sign and its magnitude
// becomes negative.
template <typename X, typename Lane>
APEX_HD uint32_t make_signs_even(uint32_t signs, const X& x, int first, Lane w, Lane magnitudes) {
    const uint32_t folded = signs ^ (signs >> 4);
    if ((0x6996u >> (folded & 15u)) & 1u) {
        int where = 0;
        float least = w[first] * x[first] * x[first];
        APEX_UNROLL
        for (int i = 1; i < 8; ++i) {
            const float value = w[first + i] * x[first + i] * x[first + i];
            if (value < least) {
                least = value;
                where = i;
            }
        }
        magnitudes[first + where] = -magnitudes[first + where];
        signs ^= 1u << where;
    }
    return signs & 127u;
}

template <template <bool> class Layout, bool WithMatrix>
struct GridType {
    using Form = Layout<WithMatrix>;
    using Block = typename Form::Block;
    using Shape = GridShape<Form::kBits>;
    static constexpr int kLength = Form::kLength;
    static constexpr int kSubBlocks = kSuperBlock / kLength;
    static constexpr int kGroups = kLength / Shape::kPositions;
    static constexpr int kSignGroups = kLength / 8;
    static constexpr int kLaneFloats = 2 * kLength + Shape::kCosts;
    static constexpr bool kSums = true;
    static constexpr bool kFits = false;
    static constexpr bool kCodebook = false;
    using Scratch = GridScratch<Form::kBits, kSubBlocks>;

    struct Thread {
        float x[kLength];
        bool overflow;
    };

    template <typename Lane>
    APEX_HD static void find(Thread& t, int j, const float* imatrix, float sum, Lane lane,
                             const Tables& tables, Scratch& s) {
        GridFit<Form::kBits, kLength, Lane> fit(tables.grid, lane);
        const float sigma2 = Form::kSigma * sum / 256.0f;
        uint32_t signs[kSignGroups];
        float largest = 0.0f;
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            fit.w[i] = WithMatrix ? importance_weight(t.x[i], imatrix[i], sigma2)
                                  : Form::plain_weight(t.x[i], sigma2);
            largest = larger(largest, absolute(t.x[i]));
        }
        APEX_UNROLL
        for (int k = 0; k < kSignGroups; ++k) {
            signs[k] = split_signs(t.x, 8 * k, fit.x);
            if (Form::kEvenSigns) signs[k] = make_signs_even(signs[k], t.x, 8 * k, fit.w, fit.x);
        }
        float divisor = fit.x[0];
        APEX_UNROLL
        for (int i = 1; i < kLength; ++i) divisor = larger(divisor, fit.x[i]);
        fit.largest = largest;
        const bool active = !(divisor < Form::kEps) && Form::start(fit, &divisor);
        if (active) fit.search(divisor, Form::kSteps, Form::kRefit);
        t.overflow = fit.overflow;
        leave(fit, active, signs, j, tables.grid, s);
    }

    template <typename Fit>
    APEX_HD static void leave(const Fit& fit, bool active, const uint32_t* signs, int j,
                              const Grid& grid, Scratch& s) {
        const bool flip = fit.scale < 0.0f;
        const uint32_t all_signs = Form::kEvenSigns ? 127u : 255u;
        s.zero[j] = !active;
        s.scales[j] = active ? (flip ? -fit.scale : fit.scale) : 0.0f;
        APEX_UNROLL
        for (int k = 0; k < kSignGroups; ++k) {
            const uint32_t sign = flip ? signs[k] ^ all_signs : signs[k];
            s.signs[kSignGroups * j + k] = static_cast<uint8_t>(active ? sign : 0u);
        }
        APEX_ROLLED
        for (int g = 0; g < kGroups; ++g) {
            s.indices[kGroups * j + g] =
                active ? grid.index_of_code[fit.codes.get(g)] : grid.index_of_code[0];
        }
    }

    APEX_HD static void combine(Thread&, int j, Scratch& s) {
        float largest = 0.0f;
        APEX_UNROLL
        for (int k = 0; k < kSubBlocks; ++k) largest = larger(largest, s.scales[k]);
        const float d = largest / 31.0f;
        const float inverse = 1.0f / d;
        const bool empty = largest == 0.0f;
        const int32_t l = clamp(nearest_int(0.5f * (inverse * s.scales[j] - 1.0f)), 0, 15);
        s.levels[j] = static_cast<uint8_t>(empty ? 0 : l);
        if (j == 0) {
            s.empty = empty;
            s.d = half_of(d * Form::kFudge);
        }
    }

    APEX_HD static void choose(Thread&, int, FitSums, const Tables&, Scratch&) {}

    APEX_HD static void pack(int j, const Scratch& s, const Tables&, Block* out) {
        Form::pack(j, s, out);
        if (j == 0) out->d = s.d;
    }
};

}  // namespace apex::cuda
