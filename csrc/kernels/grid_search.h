// The scale of a sub-block and its grid points, for the IQ2 and IQ3 types.
#pragma once

#include "grid_block.h"

namespace apex::kernels::APEX_ISA {

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

// The state of the search in one sub-block of each lane.
template <int Bits, int Length>
struct GridFit {
    using Block = GridBlock<Bits, Length>;
    static constexpr int kGroups = Block::kGroups;

    Block block;
    typename Block::Points points;
    F32 scale;

    explicit GridFit(const GridTables& grid) : block(grid) {}

    // lanes: those that matter. largest: the divisor of the steps. scale must hold the result for
    // lanes where no candidate scores.
    void search(Mask lanes, F32 largest, GridSteps steps, Refit refit) {
        const F32 zero = 0.0f;
        typename Block::Points candidate;
        uint32_t wanted[kGroups];
        for (int g = 0; g < kGroups; ++g) {
            store(points.codes + g * kLanes, I32(0));
            points.on_grid[g] = refit == Refit::off_grid_groups ? ~0u : 0u;
            wanted[g] = bits(lanes);
        }
        F32 best = zero;
        F32 sumqx, sumq2;
        for (int is = -steps.steps; is <= steps.steps; ++is) {
            const F32 inverse = F32(steps.odd + is * steps.step) / largest;
            block.assign(inverse, F32(1.0f) / inverse, wanted, &candidate);
            block.sums(candidate, &sumqx, &sumq2);
            const Mask better = lanes & (sumq2 > zero) & (sumqx * sumqx > best * sumq2);
            if (!any(better)) continue;
            const F32 this_scale = sumqx / sumq2;
            scale = select(better, this_scale, scale);
            best = select(better, this_scale * sumqx, best);
            Block::merge(better, candidate, &points);
        }
        refit_points(lanes & (scale > zero), refit);
    }

  private:
    void refit_points(Mask lanes, Refit refit) {
        uint32_t redo = 0;
        for (int g = 0; g < kGroups; ++g) redo |= ~points.on_grid[g];
        redo = refit == Refit::always ? bits(lanes) : redo & bits(lanes);
        if (redo == 0) return;
        uint32_t wanted[kGroups];
        for (int g = 0; g < kGroups; ++g) {
            wanted[g] = refit == Refit::off_grid_groups ? redo & ~points.on_grid[g] : redo;
        }
        typename Block::Points again;
        block.assign(F32(1.0f) / scale, scale, wanted, &again);
        for (int g = 0; g < kGroups; ++g) {
            int32_t* at = points.codes + g * kLanes;
            for (uint32_t rest = wanted[g]; rest; rest &= rest - 1) {
                const int lane = __builtin_ctz(rest);
                at[lane] = again.codes[g * kLanes + lane];
            }
        }
        F32 sumqx, sumq2;
        block.sums(points, &sumqx, &sumq2);
        alignas(64) float fitted[kLanes];
        alignas(64) float scales[kLanes];
        store(fitted, select(sumq2 > F32(0.0f), sumqx / sumq2, scale));
        store(scales, scale);
        for (uint32_t rest = redo; rest; rest &= rest - 1) {
            const int lane = __builtin_ctz(rest);
            scales[lane] = fitted[lane];
        }
        scale = load(scales);
    }
};

// The levels 0..15 of the sub-blocks' scales and the block's d = largest / 31. empty: the lanes
// where all scales are zero.
template <int SubBlocks>
inline F32 quantize_grid_scales(const F32* scales, int32_t* levels, uint32_t* empty) {
    F32 largest = 0.0f;
    for (int j = 0; j < SubBlocks; ++j) largest = max(largest, scales[j]);
    const F32 d = largest / F32(31.0f);
    const F32 inverse = F32(1.0f) / d;
    const Mask none = largest == F32(0.0f);
    for (int j = 0; j < SubBlocks; ++j) {
        const I32 l = clamp(nearest_int(F32(0.5f) * (inverse * scales[j] - F32(1.0f))), 0, 15);
        store(levels + j * kLanes, select(none, I32(0), l));
    }
    *empty = bits(none);
    return d;
}

}  // namespace apex::kernels::APEX_ISA
