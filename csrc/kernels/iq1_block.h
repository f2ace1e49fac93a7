// Grid points of a sub-block of IQ1_S or IQ1_M once its split is known.
#pragma once

#include <cfloat>

#include "grid_block.h"
#include "iq1_sort.h"

namespace apex::kernels::APEX_ISA {

// Values of the levels: shifted up or down by IQ1S_DELTA = IQ1M_DELTA = 0.125.
inline constexpr float kDelta = 0.125f;
inline constexpr float kShiftedUp[4] = {-1 + kDelta, kDelta, 1 + kDelta, 0};
inline constexpr float kShiftedDown[4] = {-1 - kDelta, -kDelta, 1 - kDelta, 0};

// The value of each lane's level, shifted down in some lanes.
inline F32 level_value(I32 level, Mask down) {
    return select(down, lookup(table4(kShiftedDown), level), lookup(table4(kShiftedUp), level));
}

template <int Length>
class Iq1Points {
  public:
    static constexpr int kGroups = Length / 8;
    alignas(64) int32_t codes[kGroups * kLanes];

    explicit Iq1Points(const GridTables& grid)
        : grid_(grid),
          up_(NeighbourSearch<2>::level_pattern(kShiftedUp)),
          down_(NeighbourSearch<2>::level_pattern(kShiftedDown)) {}

    // levels: Length lanes of 0, 1 or 2. down: lanes of each group that are shifted down. Returns
    // the scale, fitted again where a group was off the grid. Twin of the second half of the
    // sub-block loops of quantize_row_iq1_s_impl and quantize_row_iq1_m_impl.
    F32 assign(const float* x, const float* w, const float* levels, F32 scale, const Mask* down,
               Mask lanes) {
        alignas(64) float scales[kLanes];
        store(scales, scale);
        bool have_rows = false;
        uint32_t moved = 0;
        for (int g = 0; g < kGroups; ++g) {
            const I32 entry = gather(grid_.by_rank, rank(levels + 8 * g * kLanes));
            int32_t* at = codes + g * kLanes;
            store(at, entry);
            const uint32_t off = bits((entry < I32(0)) & lanes);
            moved |= off;
            if (off && !have_rows) {
                to_rows<Length>(x, x_rows_);
                to_rows<Length>(w, w_rows_);
                have_rows = true;
            }
            for (uint32_t rest = off; rest; rest &= rest - 1) {
                const int lane = __builtin_ctz(rest);
                const F32 values = (bits(down[g]) >> lane) & 1 ? down_ : up_;
                at[lane] = neighbours_.best(x_rows_[lane] + 8 * g, w_rows_[lane] + 8 * g,
                                            scales[lane], values, grid_.lists - 1 - at[lane]);
            }
        }
        return moved ? fit(x, w, scale, down, moved) : scale;
    }

  private:
    static I32 rank(const float* levels) {
        F32 r = 0.0f;
        float power = 1.0f;
        for (int i = 0; i < 8; ++i, power *= 3.0f) r = r + load(levels + i * kLanes) * F32(power);
        return to_int_truncated(r);
    }

    F32 fit(const float* x, const float* w, F32 scale, const Mask* down, uint32_t moved) const {
        F32 sumqx = 0.0f, sumq2 = 0.0f;
        for (int i = 0; i < Length; ++i) {
            const I32 code = load(codes + (i / 8) * kLanes);
            const F32 q = level_value(code >> (2 * (i % 8)), down[i / 8]);
            const F32 wq = load(w + i * kLanes) * q;
            sumqx = sumqx + wq * load(x + i * kLanes);
            sumq2 = sumq2 + wq * q;
        }
        const Mask usable = (sumqx > F32(0.0f)) & (sumq2 > F32(0.0f));
        alignas(64) float fitted[kLanes];
        alignas(64) float scales[kLanes];
        store(fitted, select(usable, sumqx / sumq2, scale));
        store(scales, scale);
        for (uint32_t rest = moved; rest; rest &= rest - 1) {
            const int lane = __builtin_ctz(rest);
            scales[lane] = fitted[lane];
        }
        return load(scales);
    }

    const GridTables& grid_;
    NeighbourSearch<2> neighbours_;
    F32 up_, down_;
    alignas(64) GroupRows<Length> x_rows_ = {};
    alignas(64) GroupRows<Length> w_rows_ = {};
};

inline F32 largest_absolute(const float* x, int length) {
    F32 largest = 0.0f;
    for (int i = 0; i < length; ++i) largest = max(largest, abs(load(x + i * kLanes)));
    return largest;
}

// clamp(nearest_int((inverse * scale - 1) / 2), 0, 7): the three bits of a sub-block's scale.
inline I32 iq1_scale_level(F32 inverse, F32 scale) {
    return clamp(nearest_int(F32(0.5f) * (inverse * scale - F32(1.0f))), 0, 7);
}

}  // namespace apex::kernels::APEX_ISA
