// IQ2_XXS, IQ2_XS and IQ2_S: groups of eight weights on a grid of 3^8 points, signs apart.
// Scalar twins: quantize_row_iq2_xxs_impl, quantize_row_iq2_xs_impl, quantize_row_iq2_s_impl.
#pragma once

#include "cuda/grid_type.cuh"
#include "cuda/search_positive_scale.cuh"

namespace apex::cuda {

template <bool>
struct Iq2XxsForm {
    using Block = block_iq2_xxs;
    static constexpr int kBits = 2;
    static constexpr int kLength = 32;
    static constexpr bool kEvenSigns = true;
    static constexpr float kSigma = 1.0f;
    static constexpr float kEps = kGroupMaxEps;
    static constexpr float kFudge = 1.0f;
    static constexpr GridSteps kSteps{5, 6, 0.1f};
    static constexpr Refit kRefit = Refit::always;

    template <typename Fit>
    APEX_HD static bool start(Fit& fit, float* divisor) {
        fit.scale = search_positive_scale<kLength>(fit.x, fit.w, 4).scale;
        *divisor = fit.scale * 3.0f;
        return !(*divisor <= 0.0f);
    }

    // Never called: this type requires a matrix.
    APEX_HD static float plain_weight(float, float) { return 0.0f; }

    APEX_HD static void pack(int j, const GridScratch<2, 8>& s, Block* out) {
        uint32_t word = static_cast<uint32_t>(s.levels[j]) << 28;
        for (int k = 0; k < 4; ++k) word |= static_cast<uint32_t>(s.signs[4 * j + k]) << (7 * k);
        const uint32_t keep = s.empty ? 0u : 0xffffu;
        const uint16_t* indices = s.indices + 4 * j;
        out->qs[4 * j] = static_cast<uint16_t>((indices[0] | (indices[1] << 8)) & keep);
        out->qs[4 * j + 1] = static_cast<uint16_t>((indices[2] | (indices[3] << 8)) & keep);
        out->qs[4 * j + 2] = static_cast<uint16_t>(word & keep);
        out->qs[4 * j + 3] = static_cast<uint16_t>((word >> 16) & keep);
    }
};

template <bool>
struct Iq2XsForm {
    using Block = block_iq2_xs;
    static constexpr int kBits = 2;
    static constexpr int kLength = 16;
    static constexpr bool kEvenSigns = true;
    static constexpr float kSigma = 1.0f;
    static constexpr float kEps = kGroupMaxEps;
    static constexpr float kFudge = 1.0f;
    static constexpr GridSteps kSteps{5, 9, 0.1f};
    static constexpr Refit kRefit = Refit::off_grid_groups;

    template <typename Fit>
    APEX_HD static bool start(Fit& fit, float* divisor) {
        fit.scale = *divisor / 5.0f;
        return true;
    }

    // Never called: this type requires a matrix.
    APEX_HD static float plain_weight(float, float) { return 0.0f; }

    APEX_HD static void pack(int j, const GridScratch<2, 16>& s, Block* out) {
        for (int g = 2 * j; g < 2 * j + 2; ++g) {
            out->qs[g] = static_cast<uint16_t>(s.empty ? 0 : s.indices[g] | (s.signs[g] << 9));
        }
        if (j % 2 == 0) {
            out->scales[j / 2] = static_cast<uint8_t>(s.levels[j] | (s.levels[j + 1] << 4));
        }
    }
};

template <bool>
struct Iq2SForm : Iq2XsForm<true> {
    using Block = block_iq2_s;
    static constexpr bool kEvenSigns = false;
    static constexpr float kSigma = 2.0f;
    static constexpr float kEps = 1e-8f;  // GROUP_MAX_EPS_IQ2_S
    static constexpr float kFudge = 0.9875f;

    APEX_HD static float plain_weight(float x, float sigma2) { return 0.25f * sigma2 + x * x; }

    // qh byte b holds the high bits of groups 4 b to 4 b + 3: sub-blocks 2 b and 2 b + 1.
    APEX_HD static void pack(int j, const GridScratch<2, 16>& s, Block* out) {
        constexpr int kGroups = kSuperBlock / 8;
        for (int g = 2 * j; g < 2 * j + 2; ++g) {
            out->qs[g] = static_cast<uint8_t>(s.indices[g] & 255);
            out->qs[kGroups + g] = s.signs[g];
        }
        if (j % 2 != 0) return;
        int high = 0;
        for (int k = 0; k < 4; ++k) high |= (s.indices[2 * j + k] >> 8) << (2 * k);
        out->qh[j / 2] = static_cast<uint8_t>(high);
        out->scales[j / 2] = static_cast<uint8_t>(s.levels[j] | (s.levels[j + 1] << 4));
    }
};

template <bool WithMatrix>
using Iq2Xxs = GridType<Iq2XxsForm, WithMatrix>;
template <bool WithMatrix>
using Iq2Xs = GridType<Iq2XsForm, WithMatrix>;
template <bool WithMatrix>
using Iq2S = GridType<Iq2SForm, WithMatrix>;

}  // namespace apex::cuda
