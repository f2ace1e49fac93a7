// The best grid point for one group of values: the twin of iq2_find_best_neighbour and
// iq3_find_best_neighbour.
#pragma once

#include <cfloat>
#include <cmath>

#include "grid_tables.h"
#include "kernels.h"
#include "simd.h"

namespace apex::kernels::APEX_ISA {

// Bits per level: 2 (IQ2, eight positions) or 3 (IQ3, four positions). Either way a group has 32
// (position, level) pairs, so the cost of each is computed once and the candidates only add up
// table entries, a vector of them at a time. Each candidate's sum still runs from the first
// position to the last, in its own lane.
template <int Bits>
class NeighbourSearch {
  public:
    static constexpr int kPositions = Bits == 2 ? 8 : 4;
    static constexpr int kLevels = 1 << Bits;

    NeighbourSearch() {
        alignas(64) int32_t positions[kLanes];
        const float odd[8] = {1, 3, 5, 7, 9, 11, 13, 15};
        odd_values_ = level_pattern(odd);
        for (int v = 0; v < kVectors; ++v) {
            for (int k = 0; k < kLanes; ++k) positions[k] = (v * kLanes + k) / kLevels;
            positions_[v] = load(positions);
        }
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
    uint16_t best(const float* x, const float* w, float scale, F32 values,
                  const uint16_t* list) const {
        alignas(64) float costs[kPositions * kLevels];
        const Table8 tx = table8(x);
        const Table8 tw = table8(w);
        const F32 scaled = F32(scale) * values;
        for (int v = 0; v < kVectors; ++v) {
            const F32 diff = scaled - lookup(tx, positions_[v]);
            // 0 * infinity is NaN, which ggml never picks: infinity neither. (min: not for NaN.)
            const F32 cost = lookup(tw, positions_[v]) * diff * diff;
            store(costs + v * kLanes, min(cost, F32(INFINITY)));
        }
        const CostTables tables(costs);
        const int count = *list++;
        const F32 first = tables.sum(load_u16(list));
        if (count <= kLanes) return list[first_lane(first == F32(smallest_cost(first)))];
        return best_of_many(tables, first, list, count);
    }

  private:
    static constexpr int kVectors = kPositions * kLevels / kLanes;

    struct CostTables {
        static auto table(const float* costs) {
            if constexpr (Bits == 2) {
                return table4(costs);
            } else {
                return table8(costs);
            }
        }
        decltype(table(nullptr)) at[kPositions];

        explicit CostTables(const float* costs) {
            for (int i = 0; i < kPositions; ++i) at[i] = table(costs + i * kLevels);
        }

        F32 sum(I32 codes) const {
            F32 s = lookup(at[0], codes);
            for (int i = 1; i < kPositions; ++i) s = s + lookup(at[i], codes >> (Bits * i));
            return s;
        }
    };

    static float smallest_cost(F32 costs) {
        const float smallest = smallest_lane(costs);
        if (!(smallest < FLT_MAX)) throw_overflow();  // NaN too
        return smallest;
    }

    static int first_lane(Mask m) { return __builtin_ctz(bits(m)); }

    static uint16_t best_of_many(const CostTables& tables, F32 first, const uint16_t* list,
                                 int count) {
        F32 best = first;
        I32 start = 0;  // each lane's position of its best candidate, less the lane number
        for (int v = kLanes; v < count; v += kLanes) {
            const F32 sum = tables.sum(load_u16(list + v));
            const Mask better = sum < best;
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
    I32 positions_[kVectors];
};

}  // namespace apex::kernels::APEX_ISA
