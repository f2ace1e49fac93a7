// The best grid point for one group of values, and the scales for which it stays the best.
//
// With a scale s > 0, in exact arithmetic, a candidate's sum of w (s q - x)^2 is s (s A - 2 B) + C,
// where A = sum w q^2, B = sum w q x and C = sum w x^2. So candidates compare like the straight
// lines s A - 2 B, and one that lies below the others at two scales does so between them. The
// search for a sub-block's scale comes by a point at several scales in turn: most of them need no
// look at its neighbours.
//
// ggml compares rounded sums. With u = 2^-24 and eight positions, such a sum is within
// 26 u (s^2 A + C) of the exact one, and the lines' rounding moves s (s A - 2 B) by less than
// 23 u (s^2 A + C). Two candidates that differ by more than 2^-15 (s^2 A + C), A the larger of all,
// five times both, compare the same in either way. This takes numbers that neither overflow nor
// lose bits near zero, which is why there are limits; outside of them, and where candidates are too
// close, NeighbourSearch decides.
#pragma once

#include "grid_neighbours.h"

namespace apex::kernels::APEX_ISA {

// Limits of scales, of the largest |x| and of a group's sum of w.
inline constexpr float kSmallestSure = 0x1p-30f, kLargestSure = 0x1p30f;

struct SurePoint {
    uint16_t code;
    float low;  // the winner for scales from here to the one asked for
};

// The lines of one group of one sub-block. x, w and list: as for NeighbourSearch::best.
template <int Bits>
class NeighbourLines {
    using Layout = LevelLayout<Bits>;

  public:
    // odd_values: those of NeighbourSearch.
    void set(const float* x, const float* w, F32 odd_values) {
        const Repeated<Bits> xs(x), ws(w);
        for (int v = 0; v < Layout::kVectors; ++v) {
            const F32 product = ws[v] * odd_values;
            store(slopes_ + v * kLanes, product * odd_values);
            store(offsets_ + v * kLanes, (product + product) * xs[v]);
        }
    }

    // squares: the sum of w x^2, or infinity where numbers are out of the limits. False if rounding
    // could decide.
    bool find(float squares, float scale, const uint16_t* list, SurePoint* found) const {
        if (!(scale > kSmallestSure && scale < kLargestSure)) return false;
        const int count = *list++;
        if (count > kLanes) return find_among_many(squares, scale, list, count, found);
        alignas(64) float slopes[kLanes], heights[kLanes];
        return find_among<true>(squares, scale, list, count, slopes, heights, found);
    }

  private:
    [[gnu::noinline]] bool find_among_many(float squares, float scale, const uint16_t* list,
                                           int count, SurePoint* found) const {
        alignas(64) float slopes[kLongestList], heights[kLongestList];
        return find_among<false>(squares, scale, list, count, slopes, heights, found);
    }

    // slopes, heights: room for those of the candidates.
    template <bool OneVector>
    [[gnu::always_inline]] bool find_among(float squares, float scale, const uint16_t* list,
                                           int count, float* slopes, float* heights,
                                           SurePoint* found) const {
        const int end = OneVector ? 1 : count;
        F32 lowest = INFINITY, steepest = 0.0f;
        for (int v = 0; v < end; v += kLanes) {
            F32 slope, offset;
            CostTables<Bits>::sum_both(slopes_, offsets_, list + v, count - v, &slope, &offset);
            const F32 height = F32(scale) * slope - offset;
            store(slopes + v, slope);
            store(heights + v, height);
            lowest = OneVector ? height : min_of_numbers(height, lowest);
            steepest = OneVector ? slope : max_of_numbers(slope, steepest);
        }
        const float best = smallest_lane(lowest);
        const int winner = first_equal(heights, best, end);
        if (winner < 0) return false;
        // Infinite where numbers are out of the limits: then nothing is sure.
        const float margin = 0x1p-14f * (scale * largest_lane(steepest) + squares / scale);
        const int code = list[winner];
        Mask sure = all_lanes();
        F32 reach = 0.5f * scale;
        for (int v = 0; v < end; v += kLanes) {
            const F32 above = load(heights + v) - F32(best);
            const F32 steeper = load(slopes + v) - F32(slopes[winner]);
            const F32 way = min_of_numbers((above - F32(margin)) / steeper, reach);
            sure = sure & ((above > F32(margin)) | (load_u16(list + v) == I32(code)));
            reach = select(steeper > F32(0.0f), way, reach);
        }
        if (!all(sure)) return false;
        found->code = static_cast<uint16_t>(code);
        found->low = scale - smallest_lane(reach);
        return true;
    }

    // Of the heights, the place of the first that is the best; -1 if all are NaN.
    [[gnu::always_inline]] static int first_equal(const float* heights, float best, int end) {
        for (int v = 0; v < end; v += kLanes) {
            const Mask equal = load(heights + v) == F32(best);
            if (any(equal)) return v + first_lane(equal);
        }
        return -1;
    }

    // By position and level: w q^2 and 2 w x q.
    alignas(64) float slopes_[Layout::kPositions * Layout::kLevels];
    alignas(64) float offsets_[Layout::kPositions * Layout::kLevels];
};

}  // namespace apex::kernels::APEX_ISA
