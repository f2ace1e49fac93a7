// IQ2_XXS, IQ2_XS and IQ2_S: groups of eight weights on a grid of 3^8 points, signs apart.
// Scalar twins: quantize_row_iq2_xxs_impl, quantize_row_iq2_xs_impl, quantize_row_iq2_s_impl.
#include "families.h"
#include "ggml_blocks.h"
#include "grid_type.h"
#include "search_positive_scale.h"

namespace apex::kernels::APEX_ISA {

namespace {

constexpr int kGroups = kSuperBlock / 8;

struct Xxs {
    using Block = block_iq2_xxs;
    static constexpr int kBits = 2;
    static constexpr int kLength = 32;
    static constexpr bool kEvenSigns = true;
    static constexpr float kSigma = 1.0f;
    static constexpr float kEps = 1e-15f;  // GROUP_MAX_EPS
    static constexpr float kFudge = 1.0f;
    static const GridTables& grid() { return iq2_xxs_grid(); }

    static Mask start(GridFit<2, kLength>* fit, const float* x, const float* w, Mask lanes,
                      F32* divisor) {
        alignas(64) int32_t unused[kLength * kLanes];
        fit->scale = search_positive_scale<kLength>(x, w, 4, unused);
        *divisor = fit->scale * F32(3.0f);
        return lanes & ~(*divisor <= F32(0.0f));
    }
    static constexpr GridSteps kSteps{5, 6, 0.1f};
    static constexpr Refit kRefit = Refit::always;

    // Never called: this type requires a matrix.
    static void plain_weights(const float*, F32, float*) {}

    static void pack(const GridFound<2, 8>& f, const GridTables& grid, int lane, Block* out) {
        uint32_t words[16] = {};
        for (int j = 0; j < 8 && !f.is_empty(lane); ++j) {
            words[2 * j + 1] = static_cast<uint32_t>(f.level(j, lane)) << 28;
            for (int k = 0; k < 4; ++k) {
                const int g = 4 * j + k;
                words[2 * j] |= static_cast<uint32_t>(f.index(grid, g, lane)) << (8 * k);
                words[2 * j + 1] |= static_cast<uint32_t>(f.sign(g, lane)) << (7 * k);
            }
        }
        std::memcpy(out->qs, words, sizeof(words));
    }
};

struct Xs {
    using Block = block_iq2_xs;
    static constexpr int kBits = 2;
    static constexpr int kLength = 16;
    static constexpr bool kEvenSigns = true;
    static constexpr float kSigma = 1.0f;
    static constexpr float kEps = 1e-15f;  // GROUP_MAX_EPS
    static constexpr float kFudge = 1.0f;
    static const GridTables& grid() { return iq2_xs_grid(); }

    static Mask start(GridFit<2, kLength>* fit, const float*, const float*, Mask lanes,
                      F32* divisor) {
        fit->scale = *divisor / F32(5.0f);
        return lanes;
    }
    static constexpr GridSteps kSteps{5, 9, 0.1f};
    static constexpr Refit kRefit = Refit::off_grid_groups;

    // Never called: this type requires a matrix.
    static void plain_weights(const float*, F32, float*) {}

    static void pack(const GridFound<2, 16>& f, const GridTables& grid, int lane, Block* out) {
        const bool empty = f.is_empty(lane);
        for (int g = 0; g < kGroups; ++g) {
            const int q = f.index(grid, g, lane) | (f.sign(g, lane) << 9);
            out->qs[g] = static_cast<uint16_t>(empty ? 0 : q);
        }
        for (int j = 0; j < 8; ++j) {
            const int pair = f.level(2 * j, lane) | (f.level(2 * j + 1, lane) << 4);
            out->scales[j] = static_cast<uint8_t>(pair);
        }
    }
};

struct S {
    using Block = block_iq2_s;
    static constexpr int kBits = 2;
    static constexpr int kLength = 16;
    static constexpr bool kEvenSigns = false;
    static constexpr float kSigma = 2.0f;
    static constexpr float kEps = 1e-8f;  // GROUP_MAX_EPS_IQ2_S
    static constexpr float kFudge = 0.9875f;
    static const GridTables& grid() { return iq2_s_grid(); }
    static constexpr auto start = Xs::start;
    static constexpr GridSteps kSteps{5, 9, 0.1f};
    static constexpr Refit kRefit = Refit::off_grid_groups;

    static void plain_weights(const float* x, F32 sigma2, float* w) {
        for (int i = 0; i < kLength; ++i) {
            const F32 v = load(x + i * kLanes);
            store(w + i * kLanes, F32(0.25f) * sigma2 + v * v);
        }
    }

    static void pack(const GridFound<2, 16>& f, const GridTables& grid, int lane, Block* out) {
        std::memset(out->qh, 0, sizeof(out->qh));
        for (int g = 0; g < kGroups; ++g) {
            const int index = f.index(grid, g, lane);
            out->qs[g] = static_cast<uint8_t>(index & 255);
            out->qh[g / 4] |= (index >> 8) << (2 * (g % 4));
            out->qs[kGroups + g] = static_cast<uint8_t>(f.sign(g, lane));
        }
        for (int j = 0; j < 8; ++j) {
            const int pair = f.level(2 * j, lane) | (f.level(2 * j + 1, lane) << 4);
            out->scales[j] = static_cast<uint8_t>(pair);
        }
    }
};

}  // namespace

QuantizeRows iq2_xxs(bool with_imatrix) {
    return with_imatrix ? quantize_on_grid<Xxs, true> : nullptr;
}

QuantizeRows iq2_xs(bool with_imatrix) {
    return with_imatrix ? quantize_on_grid<Xs, true> : nullptr;
}

QuantizeRows iq2_s(bool with_imatrix) {
    return with_imatrix ? quantize_on_grid<S, true> : quantize_on_grid<S, false>;
}

}  // namespace apex::kernels::APEX_ISA
