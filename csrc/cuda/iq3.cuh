// IQ3_XXS and IQ3_S: groups of four weights on a grid of 8^4 points, signs apart.
// Scalar twins: quantize_row_iq3_xxs_impl, quantize_row_iq3_s_impl.
#pragma once

#include "cuda/grid_type.cuh"

namespace apex::cuda {

template <bool>
struct Iq3XxsForm {
    using Block = block_iq3_xxs;
    static constexpr int kBits = 3;
    static constexpr int kLength = 32;
    static constexpr bool kEvenSigns = true;
    static constexpr float kSigma = 2.0f;
    static constexpr float kEps = 1e-8f;  // GROUP_MAX_EPS_IQ3_XXS
    static constexpr float kFudge = 1.0125f;
    static constexpr GridSteps kSteps{15, 15, 0.2f};
    static constexpr Refit kRefit = Refit::off_grid_groups;

    template <typename Fit>
    APEX_HD static bool start(Fit& fit, float* divisor) {
        fit.scale = *divisor / 15.0f;
        return true;
    }

    APEX_HD static float plain_weight(float x, float) { return x * x; }

    APEX_HD static void pack(int j, const GridScratch<3, 8>& s, Block* out) {
        const uint32_t keep = s.empty ? 0u : 0xffu;
        for (int g = 8 * j; g < 8 * j + 8; ++g) {
            out->qs[g] = static_cast<uint8_t>(s.indices[g] & keep);
        }
        uint32_t word = static_cast<uint32_t>(s.levels[j]) << 28;
        for (int k = 0; k < 4; ++k) word |= static_cast<uint32_t>(s.signs[4 * j + k]) << (7 * k);
        for (int b = 0; b < 4; ++b) {
            out->qs[kSuperBlock / 4 + 4 * j + b] = static_cast<uint8_t>((word >> (8 * b)) & keep);
        }
    }
};

template <bool>
struct Iq3SForm : Iq3XxsForm<true> {
    using Block = block_iq3_s;
    static constexpr bool kEvenSigns = false;
    static constexpr float kEps = 0x1p-149f;  // only zero is below it: ggml tests !max
    static constexpr float kFudge = 1.033f;
    static constexpr GridSteps kSteps{15, 9, 0.2f};
    static constexpr Refit kRefit = Refit::whole_block;

    // For a zero sub-block ggml does not advance the places it writes to, except in qh: the indices
    // and signs of the sub-blocks after it move up, and what is left at the end is zero.
    APEX_HD static void pack(int j, const GridScratch<3, 8>& s, Block* out) {
        int place = j;  // of this sub-block if it is not zero, else among the places left over
        if (s.zero[j]) {
            for (int k = j + 1; k < 8; ++k) place += s.zero[k] ? 0 : 1;
        } else {
            for (int k = 0; k < j; ++k) place -= s.zero[k] ? 1 : 0;
        }
        int high = 0;
        for (int k = 0; k < 8; ++k) {
            const int index = s.zero[j] ? 0 : s.indices[8 * j + k];
            out->qs[8 * place + k] = static_cast<uint8_t>(index & 255);
            high |= (index >> 8) << k;
        }
        out->qh[j] = static_cast<uint8_t>(high);
        for (int k = 0; k < 4; ++k) {
            out->signs[4 * place + k] = static_cast<uint8_t>(s.zero[j] ? 0 : s.signs[4 * j + k]);
        }
        if (j % 2 == 0) {
            out->scales[j / 2] = static_cast<uint8_t>(s.levels[j] | (s.levels[j + 1] << 4));
        }
    }
};

template <bool WithMatrix>
using Iq3Xxs = GridType<Iq3XxsForm, WithMatrix>;
template <bool WithMatrix>
using Iq3S = GridType<Iq3SForm, WithMatrix>;

}  // namespace apex::cuda
