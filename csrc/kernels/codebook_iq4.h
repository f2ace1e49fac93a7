// The nearest of the sixteen values of IQ4_NL and IQ4_XS: the twin of best_index_int8.
#pragma once

#include "simd.h"

namespace apex::kernels::APEX_ISA {

inline constexpr int kCodebookSize = 16;
// kvalues_iq4nl of ggml-common.h.
inline constexpr int kCodebook[kCodebookSize] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                 1,    13,   25,  38,  53,  69,  89,  113};

// best_index_int8 returns the number of midpoints between neighbours that are <= x (15 for NaN).
// It compares the rounded distances x - a and b - x; the two orders agree, because near a midpoint
// both differences are exact (their exponent is not above that of x), and away from it they differ
// by far more than their rounding. (Checked for all 2^32 floats.)
//
// The midpoints are at least 11.5 apart, so a cell [9.5 (c - 1/2), 9.5 (c + 1/2)] holds at most
// one. One table gives the midpoint in cell c, one the entry at the cell's lower end, which is also
// the entry of the upper part of cell c - 1. Cell edges are 0.25 or more from any midpoint, so the
// rounding of x / 9.5 does not matter.
inline constexpr float kCellWidth = 9.5f;

struct CodebookCells {
    float midpoint[32] = {};  // index: cell number mod 32
    float value[32] = {};
    float index[32] = {};

    constexpr CodebookCells() {
        for (int c = -16; c < 16; ++c) {
            const float low = kCellWidth * (c - 0.5f);
            int below = 0;
            while (below < kCodebookSize - 1 && middle(below) <= low) ++below;
            value[c & 31] = static_cast<float>(kCodebook[below]);
            index[c & 31] = static_cast<float>(below);
            const bool inside = below < kCodebookSize - 1 && middle(below) < low + kCellWidth;
            midpoint[c & 31] = inside ? middle(below) : 1e30f;
        }
    }

    static constexpr float middle(int i) { return 0.5f * (kCodebook[i] + kCodebook[i + 1]); }
};
inline constexpr CodebookCells kCells;

class Codebook {
  public:
    // The nearest value, for |x| <= 147 (cells -15 to 15).
    F32 value_in_range(F32 x) const { return lookup(values_, cell(x)); }

    // Its index, for any x.
    I32 index(F32 x) const {
        // min gives its second operand for NaN, which ggml maps to the last entry.
        const F32 inside = max(min(x, F32(113.0f)), F32(-127.0f));
        return to_int_truncated(lookup(indices_, cell(inside)));
    }

  private:
    // The cell whose lower end has the entry wanted.
    I32 cell(F32 x) const {
        const I32 c = as_int(x * F32(1.0f / kCellWidth) + F32(kRoundMagic));
        return select(x >= lookup(midpoints_, c), c + I32(1), c);
    }

    Table32 midpoints_ = table32(kCells.midpoint);
    Table32 values_ = table32(kCells.value);
    Table32 indices_ = table32(kCells.index);
};

}  // namespace apex::kernels::APEX_ISA
