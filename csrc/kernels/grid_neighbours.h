// The best grid point for one group of values: the twin of iq2_find_best_neighbour and
// iq3_find_best_neighbour.
#pragma once

#include <cfloat>
#include <cmath>

#include "cost_tables.h"
#include "grid_tables.h"
#include "kernels.h"

namespace apex::kernels::APEX_ISA {

// Bits per level: 2 (IQ2, eight positions) or 3 (IQ3, four positions). Either way a group has 32
// (position, level) pairs, so the cost of each is computed once and the candidates only add up
// table entries, a vector of them at a time. Each candidate's sum still runs from the first
// position to the last, in its own lane.
template <int Bits>
class NeighbourSearch {
  public:
    static constexpr int kPositions = LevelLayout<Bits>::kPositions;
    static constexpr int kLevels = LevelLayout<Bits>::kLevels;

    NeighbourSearch() {
        const float odd[8] = {1, 3, 5, 7, 9, 11, 13, 15};
        odd_values_ = level_pattern(odd);
    }

    // The value of each level, repeated over the lanes.
    static F32 level_pattern(const float* values) {
        alignas(64) float pattern[kLanes];
        for (int k = 0; k < kLanes; ++k) pattern[k] = values[k % kLevels];
        return load(pattern);
    }

    // The values 2 level + 1 of the IQ2 and IQ3 types.
    F32 odd_values() const { return odd_values_; }

    // x, w: kPositions values, with eight floats readable. values: a level_pattern. list: a list
    // of GridTables. Returns the code of the first candidate with the smallest sum of
    // w * (scale * value - x)^2; throws Overflow if none is less than FLT_MAX, where ggml's
    // search comes out empty.
    // Inline, so that constants stay in registers from call to call.
    [[gnu::always_inline]] uint16_t best(const float* x, const float* w, float scale, F32 values,
                                         const uint16_t* list) const {
        const Repeated<Bits> xs(x), ws(w);
        const F32 scaled = F32(scale) * values;
        const CostTables<Bits> tables([&](int v) {
            const F32 diff = scaled - xs[v];
            return ws[v] * diff * diff;
        });
        const int count = *list++;
        // 0 * infinity is NaN, which ggml never picks: infinity neither.
        const F32 first = number_or(tables.sum(list, count), INFINITY);
        if (count <= kLanes) return list[first_lane(first == F32(smallest_cost(first)))];
        return best_of_many(tables, first, list, count);
    }

  private:
    static float smallest_cost(F32 costs) {
        const float smallest = smallest_lane(costs);
        if (!(smallest < FLT_MAX)) throw_overflow();  // NaN too
        return smallest;
    }

    static uint16_t best_of_many(const CostTables<Bits>& tables, F32 first, const uint16_t* list,
                                 int count) {
        F32 best = first;
        I32 start = 0;  // each lane's position of its best candidate, less the lane number
        for (int v = kLanes; v < count; v += kLanes) {
            const F32 sum = tables.sum(list + v, count - v);
            const Mask better = sum < best;  // not NaN
            best = select(better, sum, best);
            start = select(better, I32(v), start);
        }
        alignas(64) int32_t starts[kLanes];
        store(starts, start);
        uint32_t ties = bits(best == F32(smallest_cost(best)));
        int position = starts[__builtin_ctz(ties)] + __builtin_ctz(ties);
        while (ties &= ties - 1) {
            const int other = starts[__builtin_ctz(ties)] + __builtin_ctz(ties);
            if (other < position) position = other;
        }
        return list[position];
    }

    F32 odd_values_;
};

}  // namespace apex::kernels::APEX_ISA
