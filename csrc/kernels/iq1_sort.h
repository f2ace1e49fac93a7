// Sub-blocks sorted by value, for the exact three-level splits of IQ1_S and IQ1_M.
#pragma once

#include "superblocks.h"

namespace apex::kernels::APEX_ISA {

// ggml sorts with qsort and a comparator that leaves equal values (and -0 next to +0) in any
// order; glibc's qsort is a stable merge sort, which is the order of (value, index).
template <int Length>
class SortedBlock {
  public:
    // order[r * kLanes + lane]: where the r-th smallest value of a lane stands.
    alignas(64) int32_t order[Length * kLanes];

    explicit SortedBlock(const float* x) {
        for (int i = 0; i < Length; ++i) {
            store(values_ + i * kLanes, load(x + i * kLanes));
            store(order + i * kLanes, I32(i));
        }
        // Batcher's odd-even merge sort: a network, so all lanes take the same steps.
        for (int p = 1; p < Length; p *= 2) {
            for (int k = p; k >= 1; k /= 2) {
                for (int j = k % p; j + k < Length; j += 2 * k) {
                    for (int i = j; i < j + k && i + k < Length; ++i) {
                        if (i / (2 * p) == (i + k) / (2 * p)) exchange(i, i + k);
                    }
                }
            }
        }
    }

    // data[order[r]] of each lane.
    F32 pick(const float* data, int r) const {
        constexpr int kShift = kLanes == 16 ? 4 : 3;
        return gather(data, (load(order + r * kLanes) << kShift) + lane_numbers());
    }

  private:
    void exchange(int low, int high) {
        float* a = values_ + low * kLanes;
        float* b = values_ + high * kLanes;
        int32_t* ia = order + low * kLanes;
        int32_t* ib = order + high * kLanes;
        const F32 va = load(a), vb = load(b);
        const I32 na = load(ia), nb = load(ib);
        const Mask swap = (va > vb) | ((va == vb) & (na > nb));
        store(a, select(swap, vb, va));
        store(b, select(swap, va, vb));
        store(ia, select(swap, nb, na));
        store(ib, select(swap, na, nb));
    }

    alignas(64) float values_[Length * kLanes];
};

// The best split found so far: levels are 0 before rank i1, 1 before i2, then 2.
struct Split {
    F32 score;
    F32 scale;
    I32 i1 = -1;
    I32 i2 = -1;
    I32 signs = 0;  // which of the two shifts, per group

    // One candidate, taken over where it scores strictly higher.
    void offer(F32 sumqx, F32 sumq2, int at1, int at2, int candidate_signs) {
        const Mask better = (sumq2 > F32(0.0f)) & (sumqx * sumqx > score * sumq2);
        if (!any(better)) return;
        const F32 s = sumqx / sumq2;
        scale = select(better, s, scale);
        score = select(better, s * sumqx, score);
        i1 = select(better, I32(at1), i1);
        i2 = select(better, I32(at2), i2);
        signs = select(better, I32(candidate_signs), signs);
    }
};

// The levels of a split, back in the order of the weights.
template <int Length>
inline void split_levels(const SortedBlock<Length>& sorted, const Split& split, float* levels) {
    alignas(64) int32_t by_rank[kLanes];
    for (int r = 0; r < Length; ++r) {
        const I32 zero = 0, one = 1;
        store(by_rank, select(I32(r) < split.i1, zero, one) + select(I32(r) < split.i2, zero, one));
        for (int lane = 0; lane < kLanes; ++lane) {
            const int place = sorted.order[r * kLanes + lane];
            levels[place * kLanes + lane] = static_cast<float>(by_rank[lane]);
        }
    }
}

}  // namespace apex::kernels::APEX_ISA
