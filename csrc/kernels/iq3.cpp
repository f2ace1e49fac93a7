// IQ3_XXS and IQ3_S: groups of four weights on a grid of 8^4 points, signs apart.
// Scalar twins: quantize_row_iq3_xxs_impl, quantize_row_iq3_s_impl.
#include "families.h"
#include "ggml_blocks.h"
#include "grid_type.h"

namespace apex::kernels::APEX_ISA {

namespace {

constexpr int kSubBlocks = 8;
constexpr int kGroupsPerSubBlock = 8;
using Found = GridFound<3, kSubBlocks>;

struct Xxs {
    using Block = block_iq3_xxs;
    static constexpr int kBits = 3;
    static constexpr int kLength = 32;
    static constexpr bool kEvenSigns = true;
    static constexpr float kSigma = 2.0f;
    static constexpr float kEps = 1e-8f;  // GROUP_MAX_EPS_IQ3_XXS
    static constexpr float kFudge = 1.0125f;
    static constexpr GridSteps kSteps{15, 15, 0.2f};
    static constexpr Refit kRefit = Refit::off_grid_groups;
    static const GridTables& grid() { return iq3_xxs_grid(); }

    static Mask start(GridFit<3, kLength>* fit, const float*, const float*, Mask lanes,
                      F32* divisor) {
        fit->scale = *divisor / F32(15.0f);
        return lanes;
    }

    static void plain_weights(const float* x, F32, float* w) { squared_weights(x, kLength, w); }

    static void pack(const Found& f, const GridTables& grid, int lane, Block* out) {
        std::memset(out->qs, 0, sizeof(out->qs));
        for (int j = 0; j < kSubBlocks && !f.is_empty(lane); ++j) {
            for (int k = 0; k < kGroupsPerSubBlock; ++k) {
                const int g = kGroupsPerSubBlock * j + k;
                out->qs[g] = static_cast<uint8_t>(f.index(grid, g, lane));
            }
            uint32_t word = static_cast<uint32_t>(f.level(j, lane)) << 28;
            for (int k = 0; k < 4; ++k) {
                word |= static_cast<uint32_t>(f.sign(4 * j + k, lane)) << (7 * k);
            }
            std::memcpy(out->qs + kSuperBlock / 4 + 4 * j, &word, 4);
        }
    }
};

struct S {
    using Block = block_iq3_s;
    static constexpr int kBits = 3;
    static constexpr int kLength = 32;
    static constexpr bool kEvenSigns = false;
    static constexpr float kSigma = 2.0f;
    static constexpr float kEps = 0x1p-149f;  // only zero is below it: ggml tests !max
    static constexpr float kFudge = 1.033f;
    static constexpr GridSteps kSteps{15, 9, 0.2f};
    static constexpr Refit kRefit = Refit::whole_block;
    static const GridTables& grid() { return iq3_s_grid(); }
    static constexpr auto start = Xxs::start;
    static constexpr auto plain_weights = Xxs::plain_weights;

    static void pack(const Found& f, const GridTables& grid, int lane, Block* out) {
        std::memset(out, 0, sizeof(*out));
        // For a zero sub-block ggml does not advance the places it writes to, except in qh: the
        // indices and signs of the sub-blocks after it move up.
        uint8_t* qs = out->qs;
        uint8_t* signs = out->signs;
        for (int j = 0; j < kSubBlocks; ++j) {
            if (f.is_zero(j, lane)) continue;
            for (int k = 0; k < kGroupsPerSubBlock; ++k) {
                const int index = f.index(grid, kGroupsPerSubBlock * j + k, lane);
                *qs++ = static_cast<uint8_t>(index & 255);
                out->qh[j] |= (index >> 8) << k;
            }
            for (int k = 0; k < 4; ++k) *signs++ = static_cast<uint8_t>(f.sign(4 * j + k, lane));
        }
        for (int j = 0; j < kSubBlocks / 2; ++j) {
            const int pair = f.level(2 * j, lane) | (f.level(2 * j + 1, lane) << 4);
            out->scales[j] = static_cast<uint8_t>(pair);
        }
    }
};

}  // namespace

QuantizeRows iq3_xxs(bool with_imatrix) {
    return with_imatrix ? quantize_on_grid<Xxs, true> : quantize_on_grid<Xxs, false>;
}

QuantizeRows iq3_s(bool with_imatrix) {
    return with_imatrix ? quantize_on_grid<S, true> : quantize_on_grid<S, false>;
}

}  // namespace apex::kernels::APEX_ISA
