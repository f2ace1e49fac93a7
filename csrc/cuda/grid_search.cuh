// The scale of a sub-block and its grid points, for the IQ2 and IQ3 types.
#pragma once

#include "cuda/grid.cuh"

namespace apex::cuda {

// Candidate inverse scales: (odd + is * step) / largest for is = -steps..steps, where odd is the
// largest odd integer a level stands for.
struct GridSteps {
    int odd;
    int steps;
    float step;
};

// What happens to groups whose winning point was a neighbour, once the scale is known.
enum class Refit {
    off_grid_groups,  // they are assigned again
    // All groups of such a sub-block are assigned again (IQ3_S); one for which no candidate scale
    // scored counts as off the grid.
    whole_block,
    always,  // every group of every sub-block (IQ2_XXS)
};

// A code per group, four to a word, so that they stay in registers.
template <int Groups>
struct GridCodes {
    uint64_t words[(Groups + 3) / 4] = {};
    uint32_t off_grid = 0;  // groups whose rounded point was not on the grid itself

    APEX_HD uint32_t get(int g) const {
        uint64_t word = words[0];
        if (Groups > 4 && g >= 4) word = words[(Groups + 3) / 4 - 1];
        return static_cast<uint32_t>(word >> (16 * (g & 3))) & 0xffffu;
    }

    APEX_HD void set(int g, uint32_t code) {
        const uint64_t mask = uint64_t{0xffff} << (16 * (g & 3));
        const uint64_t bits = static_cast<uint64_t>(code) << (16 * (g & 3));
        if (Groups > 4 && g >= 4) {
            uint64_t& word = words[(Groups + 3) / 4 - 1];
            word = (word & ~mask) | bits;
        } else {
            words[0] = (words[0] & ~mask) | bits;
        }
    }
};

// x: the magnitudes (some types leave a few negative), w: their weights, costs: room for kCosts.
template <int Bits, int Length, typename Lane>
struct GridFit {
    using Shape = GridShape<Bits>;
    static constexpr int kGroups = Length / Shape::kPositions;
    static constexpr int kLaneFloats = 2 * Length + Shape::kCosts;
    using Codes = GridCodes<kGroups>;

    const Grid& grid;
    Lane x, w, costs;
    float largest;  // magnitude
    float scale = 0.0f;
    bool overflow = false;
    Codes codes = {};

    APEX_HD GridFit(const Grid& grid_tables, Lane lane)
        : grid(grid_tables), x(lane), w(lane.from(Length)), costs(lane.from(2 * Length)) {}

    // The nearest point of group g at the given inverse scale, or its best neighbour if that is off
    // the grid.
    APEX_HD void assign(int g, float inverse, float at_scale, Codes& to) {
        const Lane xg = x.from(g * Shape::kPositions);
        const Lane wg = w.from(g * Shape::kPositions);
        int rank = 0, power = 1;
        APEX_UNROLL
        for (int i = 0; i < Shape::kPositions; ++i, power *= Shape::kRadix) {
            const float t = 0.5f * (inverse * xg[i] - 1.0f);
            const float shifted = smaller(larger(t + kMagic, kMagic), kMagic + Shape::kTop);
            rank += (bits_of(shifted) & 0xff) * power;
        }
        uint32_t code = grid.by_rank[rank];
        to.off_grid &= ~(1u << g);
        if (code & kOffGrid) {
            to.off_grid |= 1u << g;
            APEX_UNROLL
            for (int i = 0; i < Shape::kPositions; ++i) {
                const float root = sqrtf(wg[i]);
                APEX_UNROLL
                for (int l = 0; l <= Shape::kTop; ++l) {
                    const float diff = at_scale * static_cast<float>(2 * l + 1) - xg[i];
                    costs[i * Shape::kRadix + l] = root * diff * diff;
                }
            }
            code = cheapest_candidate<Bits>(grid, code, costs);
            if (code == kNoCode) {
                overflow = true;
                code = 0;
            }
        }
        to.set(g, code);
    }

    // sum w x q and sum w q^2 over the sub-block, q = 2 level + 1.
    APEX_HD void sums(const Codes& of, float* sumqx, float* sumq2) const {
        float qx = 0.0f, q2 = 0.0f;
        APEX_ROLLED
        for (int g = 0; g < kGroups; ++g) {
            const uint32_t code = of.get(g);
            APEX_UNROLL
            for (int i = 0; i < Shape::kPositions; ++i) {
                const int at = g * Shape::kPositions + i;
                const auto q = static_cast<float>(2 * Shape::level(code, i) + 1);
                qx += w[at] * x[at] * q;
                q2 += w[at] * q * q;
            }
        }
        *sumqx = qx;
        *sumq2 = q2;
    }

    // divisor: of the steps. scale must hold the result where no candidate scores.
    APEX_HD void search(float divisor, GridSteps steps, Refit refit) {
        codes.off_grid = refit == Refit::off_grid_groups ? 0u : ~0u;
        float best = 0.0f;
        Codes candidate;
        APEX_ROLLED
        for (int is = -steps.steps; is <= steps.steps; ++is) {
            const float inverse = (steps.odd + is * steps.step) / divisor;
            require_in_range(inverse);
            if (overflow) return;
            const float this_scale = 1.0f / inverse;
            APEX_ROLLED
            for (int g = 0; g < kGroups; ++g) assign(g, inverse, this_scale, candidate);
            float sumqx, sumq2;
            sums(candidate, &sumqx, &sumq2);
            if (sumq2 > 0.0f && sumqx * sumqx > best * sumq2) {
                scale = sumqx / sumq2;
                best = scale * sumqx;
                codes = candidate;
            }
        }
        if (scale > 0.0f && (refit == Refit::always || codes.off_grid != 0)) refit_points(refit);
        // ggml asserts scale >= 0 after the sign was split off.
        if (scale != scale) overflow = true;
    }

  private:
    // Rounding by floats holds for arguments up to 2^22; these are about half of this product.
    APEX_HD void require_in_range(float inverse) {
        if (!(absolute(inverse * largest) < 4e6f)) overflow = true;
    }

    APEX_HD void refit_points(Refit refit) {
        const float inverse = 1.0f / scale;
        require_in_range(inverse);
        if (overflow) return;
        Codes again = codes;
        APEX_ROLLED
        for (int g = 0; g < kGroups; ++g) {
            const bool wanted = refit != Refit::off_grid_groups || (codes.off_grid >> g) & 1;
            if (wanted) assign(g, inverse, scale, again);
        }
        codes = again;
        float sumqx, sumq2;
        sums(codes, &sumqx, &sumq2);
        if (sumq2 > 0.0f) scale = sumqx / sumq2;
    }
};

}  // namespace apex::cuda
