// One sub-block per lane on its way through the grid searches of the IQ2 and IQ3 types.
#pragma once

#include "neighbour_lines.h"
#include "superblocks.h"

namespace apex::kernels::APEX_ISA {

// Values of one lane in a row; a row has room for the eight floats NeighbourSearch reads.
template <int Length>
using GroupRows = float[kLanes][Length + 8];

template <int Length>
inline void to_rows(const float* lanes, GroupRows<Length>& rows) {
    for (int i = 0; i < Length; i += 8) {
        const float* columns[8];
        for (int k = 0; k < 8; ++k) columns[k] = lanes + (i + k) * kLanes;
        for (int lane = 0; lane < kLanes; lane += 8) {
            transpose_8x8(columns, lane, rows[lane] + i, Length + 8);
        }
    }
}

// Throws Overflow where ggml asserts scale >= 0 after the sign was split off: the scale is NaN.
inline void require_scale(F32 scale, Mask lanes) {
    if (any(lanes & (scale != scale))) throw_overflow();
}

// A grid point per group and lane.
template <int Groups>
struct GridPoints {
    alignas(64) int32_t codes[Groups * kLanes];
    uint32_t on_grid[Groups];  // lanes whose rounded point was on the grid itself
};

template <int Bits, int Length>
class GridBlock {
  public:
    static constexpr int kPositions = NeighbourSearch<Bits>::kPositions;
    static constexpr int kGroups = Length / kPositions;
    static constexpr int kTop = Bits == 2 ? 2 : 7;  // highest level
    static constexpr int kRadix = kTop + 1;
    using Points = GridPoints<kGroups>;

    explicit GridBlock(const GridTables& grid) : grid_(grid) {}

    // x, w: Length values of kLanes lanes, the values' magnitudes (signs are stored apart; some
    // types leave a few values negative) and their weights. Both must stay valid.
    void set(const float* x, const float* w) {
        alignas(64) float roots[Length * kLanes];
        x_ = x;
        w_ = w;
        largest_ = F32(0.0f);
        for (int i = 0; i < Length; ++i) {
            const F32 xi = load(x + i * kLanes);
            const F32 wi = load(w + i * kLanes);
            largest_ = max(largest_, abs(xi));
            store(wx_ + i * kLanes, wi * xi);
            store(roots + i * kLanes, sqrt(wi));
        }
        to_rows<Length>(x, x_rows_);
        to_rows<Length>(roots, root_rows_);
        forget(roots);
    }

    // The nearest point of each group at the given inverse scale, or its best neighbour if that is
    // off the grid. wanted: the lanes of each group whose result matters.
    void assign(F32 inverse, F32 scale, const uint32_t* wanted, Points* points) {
        alignas(64) float scales[kLanes];
        alignas(64) int32_t ranks[kGroups * kLanes];
        uint32_t missing[kGroups];
        store(scales, scale);
        // Rounding by floats holds for arguments up to 2^22; these are about half of this product.
        // And half the inverse is to be exact.
        const Mask usual = (abs(inverse * largest_) < F32(4e6f)) & (inverse > F32(0x1p-100f));
        uint32_t lanes = 0;
        for (int g = 0; g < kGroups; ++g) lanes |= wanted[g];
        const bool in_range = (lanes & ~bits(usual)) == 0;
        for (int g = 0; g < kGroups; ++g) {
            const int at = g * kLanes;
            const I32 rank =
                in_range ? rank_of<true>(g, F32(0.5f) * inverse) : rank_of<false>(g, inverse);
            const Mask known = (rank == load(known_.ranks + at)) &
                               (scale >= load(known_.low + at)) & (scale <= load(known_.high + at));
            store(ranks + at, rank);
            missing[g] = wanted[g] & ~bits(known);
        }
        for (int g = 0; g < kGroups; ++g) {
            const int at = g * kLanes;
            for (uint32_t rest = missing[g]; rest; rest &= rest - 1) {
                const int lane = __builtin_ctz(rest);
                find(g, lane, ranks[at + lane], scales[lane]);
            }
            store(points->codes + at, load(known_.codes + at));
            points->on_grid[g] = known_.on_grid[g];
        }
    }

    // sum w x q and sum w q^2 over the sub-block, q = 2 level + 1.
    void sums(const Points& points, F32* sumqx, F32* sumq2) const {
        F32 qx = 0.0f, q2 = 0.0f;
        for (int g = 0; g < kGroups; ++g) {
            const I32 code = load(points.codes + g * kLanes);
            for (int i = 0; i < kPositions; ++i) {
                const int at = (g * kPositions + i) * kLanes;
                const I32 level = i == 0 ? code + code : code >> (Bits * i - 1);  // twice
                const F32 q = to_float((level & I32(2 * ((1 << Bits) - 1))) | I32(1));
                qx = qx + load(wx_ + at) * q;
                q2 = q2 + load(w_ + at) * q * q;
            }
        }
        *sumqx = qx;
        *sumq2 = q2;
    }

    // Takes over other's points in some lanes.
    static void merge(Mask take, const Points& other, Points* points) {
        const uint32_t lanes = bits(take);
        for (int g = 0; g < kGroups; ++g) {
            int32_t* at = points->codes + g * kLanes;
            store(at, select(take, load(other.codes + g * kLanes), load(at)));
            points->on_grid[g] = (points->on_grid[g] & ~lanes) | (other.on_grid[g] & lanes);
        }
    }

  private:
    // 0.5 * (inverse * x - 1); factor: half the inverse if that is exact, else the inverse.
    template <bool Halved>
    F32 rounding_argument(int at, F32 factor) const {
        const F32 product = factor * load(x_ + at * kLanes);
        return Halved ? product - F32(0.5f) : F32(0.5f) * (product - F32(1.0f));
    }

    // The rank of the point nearest_int(0.5 * (inverse * x - 1)), clamped. factor: half the inverse
    // if all is in range, else the inverse.
    template <bool InRange>
    I32 rank_of(int g, F32 factor) const {
#if defined(__aarch64__)
        if (InRange) return rank_by_integers(g, factor);
#endif
        F32 r = 0.0f;
        float power = 1.0f;
        for (int i = 0; i < kPositions; ++i) {
            const F32 t = rounding_argument<InRange>(g * kPositions + i, factor);
            const F32 level = InRange ? nearest_clamped_in_range(t, 0.0f, kTop)
                                      : to_float(clamp(nearest_int(t), 0, kTop));
            r = r + level * F32(power);
            power *= kRadix;
        }
        return to_int_truncated(r);
    }

#if defined(__aarch64__)
    // One instruction rounds, converts and takes negative values to zero.
    I32 rank_by_integers(int g, F32 half) const {
        I32 r = 0;
        int32_t power = 1;
        for (int i = 0; i < kPositions; ++i) {
            const F32 t = rounding_argument<true>(g * kPositions + i, half);
            r = r + nearest_level(t, kTop) * I32(power);
            power *= kRadix;
        }
        return r;
    }
#endif

    // What was found last for each group and lane: the code for a rank and scales low..high.
    struct Known {
        alignas(64) int32_t ranks[kGroups * kLanes];
        alignas(64) int32_t codes[kGroups * kLanes];
        alignas(64) float low[kGroups * kLanes];
        alignas(64) float high[kGroups * kLanes];
        alignas(64) float squares[kGroups * kLanes];  // for NeighbourLines::find
        uint32_t on_grid[kGroups];
        uint32_t has_lines[kGroups];
    };

    void forget(const float* roots) {
        const F32 low = kSmallestSure, high = kLargestSure;
        const Mask usable = (largest_ > low) & (largest_ < high);
        for (int g = 0; g < kGroups; ++g) {
            F32 weights = 0.0f, squares = 0.0f;
            for (int i = g * kPositions; i < (g + 1) * kPositions; ++i) {
                const F32 w = load(roots + i * kLanes), x = load(x_ + i * kLanes);
                weights = weights + w;
                squares = squares + w * x * x;
            }
            const Mask sure = usable & (weights > low) & (weights < high);
            const int at = g * kLanes;
            store(known_.squares + at, select(sure, squares, F32(INFINITY)));
            store(known_.ranks + at, I32(-1));
            store(known_.codes + at, I32(0));
            known_.on_grid[g] = known_.has_lines[g] = 0;
        }
    }

    void find(int g, int lane, int32_t rank, float scale) {
        const int at = g * kLanes + lane;
        const int32_t entry = grid_.by_rank[rank];
        known_.ranks[at] = rank;
        if (entry >= 0) {
            known_.codes[at] = entry;
            known_.low[at] = -INFINITY;
            known_.high[at] = INFINITY;
            known_.on_grid[g] |= 1u << lane;
            return;
        }
        const uint32_t bit = 1u << lane;
        const float* x = x_rows_[lane] + g * kPositions;
        const float* w = root_rows_[lane] + g * kPositions;
        known_.on_grid[g] &= ~bit;
        if ((known_.has_lines[g] & bit) == 0) lines_[at].set(x, w, neighbours_.odd_values());
        known_.has_lines[g] |= bit;
        const uint16_t* list = grid_.lists - 1 - entry;
        SurePoint point;
        if (lines_[at].find(known_.squares[at], scale, list, &point)) {
            known_.codes[at] = point.code;
            known_.low[at] = point.low;
        } else {
            known_.codes[at] = neighbours_.best(x, w, scale, neighbours_.odd_values(), list);
            known_.low[at] = INFINITY;  // for no other scale
        }
        known_.high[at] = scale;
    }

    using Rows = GroupRows<Length>;

    const GridTables& grid_;
    NeighbourSearch<Bits> neighbours_;
    Known known_;
    NeighbourLines<Bits> lines_[kGroups * kLanes];
    const float* x_;
    const float* w_;
    F32 largest_;
    alignas(64) float wx_[Length * kLanes];
    alignas(64) Rows x_rows_ = {};
    alignas(64) Rows root_rows_ = {};
};

}  // namespace apex::kernels::APEX_ISA
