// The best grid point for one group of values, and the scales for which it stays the best.
//
// With a scale s > 0, in exact arithmetic, a candidate's sum of w (s q - x)^2 is s (s A - 2 B) + C,
// where A = sum w q^2, B = sum w q x and C = sum w x^2. So candidates compare like the straight
// lines s A - 2 B, and one that lies below the others at two scales does so between them. The search
// for a sub-block's scale comes by a point at several scales in turn: most of them need no look at
// its neighbours.
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

template <int Bits>
class NeighbourLines {
  public:
    static constexpr int kPositions = LevelLayout<Bits>::kPositions;
    static constexpr int kMost = 304;  // candidates of a list, with padding

    // x, w, list: as for NeighbourSearch::best. squares: the sum of w x^2, or infinity where numbers
    // are out of the limits. False if rounding could decide.
    [[gnu::always_inline]] static bool find(const float* x, const float* w, float squares,
                                            float scale, const uint16_t* list, SurePoint* found) {
        if (!(scale > kSmallestSure && scale < kLargestSure)) return false;
        alignas(64) float slopes[kMost], heights[kMost];
        const int count = *list++;
        F32 lowest = INFINITY, steepest = 0.0f;
        for (int v = 0; v < count; v += kLanes) {
            F32 slope, offset;
            line(x, w, load_u16(list + v), &slope, &offset);
            const F32 height = F32(scale) * slope - offset;
            store(slopes + v, slope);
            store(heights + v, height);
            lowest = min(height, lowest);
            steepest = max(slope, steepest);
        }
        const float best = smallest_lane(lowest);
        const int winner = first_equal(heights, best, count);
        if (winner < 0) return false;
        const float margin = 0x1p-14f * (scale * largest_lane(steepest) + squares / scale);
        const int code = list[winner];
        Mask sure = all_lanes();
        F32 reach = 0.5f * scale;
        for (int v = 0; v < count; v += kLanes) {
            const F32 above = load(heights + v) - F32(best);
            const F32 steeper = load(slopes + v) - F32(slopes[winner]);
            sure = sure & ((above > F32(margin)) | (load_u16(list + v) == I32(code)));
            reach = select(steeper > F32(0.0f), min((above - F32(margin)) / steeper, reach), reach);
        }
        if (!all(sure)) return false;
        found->code = static_cast<uint16_t>(code);
        found->low = scale - smallest_lane(reach);
        return true;
    }

  private:
    // slope: A of each candidate. offset: 2 B.
    [[gnu::always_inline]] static void line(const float* x, const float* w, I32 codes, F32* slope,
                                            F32* offset) {
        F32 a = 0.0f, b = 0.0f;
        for (int i = 0; i < kPositions; ++i) {
            const I32 level = i == 0 ? codes + codes : codes >> (Bits * i - 1);  // twice
            const F32 q = to_float((level & I32(2 * ((1 << Bits) - 1))) | I32(1));
            const F32 wq = F32(w[i]) * q;
            a = a + wq * q;
            b = b + F32(x[i]) * wq;
        }
        *slope = a;
        *offset = b + b;
    }

    static int first_equal(const float* heights, float best, int count) {
        for (int v = 0; v < count; v += kLanes) {
            const Mask equal = load(heights + v) == F32(best);
            if (any(equal)) return v + first_lane(equal);
        }
        return -1;
    }
};

}  // namespace apex::kernels::APEX_ISA
