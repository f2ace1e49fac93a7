// The nearest of the sixteen values of IQ4_NL and IQ4_XS: the twin of best_index_int8.
//
// Why cells instead of a binary search, and why they are exact: csrc/kernels/codebook_iq4.h. Here
// the cell tables have 32 entries each, one per bank of shared memory, so lanes never conflict.
#pragma once

#include "cuda/portable.cuh"

namespace apex::cuda {

struct CodebookCells {
    static constexpr int kSize = 16;
    static constexpr float kCellWidth = 9.5f;

    float midpoint[32] = {};  // index: cell number mod 32
    float value[32] = {};
    int32_t index[32] = {};

    constexpr CodebookCells() {
        // kvalues_iq4nl of ggml-common.h.
        constexpr int values[kSize] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                       1,    13,   25,  38,  53,  69,  89,  113};
        for (int c = -16; c < 16; ++c) {
            const float low = kCellWidth * (c - 0.5f);
            int below = 0;
            while (below < kSize - 1 && 0.5f * (values[below] + values[below + 1]) <= low) ++below;
            value[c & 31] = static_cast<float>(values[below]);
            index[c & 31] = below;
            const float middle =
                below < kSize - 1 ? 0.5f * (values[below] + values[below + 1]) : 1e30f;
            midpoint[c & 31] = middle < low + kCellWidth ? middle : 1e30f;
        }
    }

    // The cell whose lower end has the entry wanted, for |x| <= 147.
    APEX_HD int32_t cell(float x) const {
        const int32_t c = bits_of(x * (1.0f / kCellWidth) + kMagic);
        return (x >= midpoint[c & 31] ? c + 1 : c) & 31;
    }

    APEX_HD float nearest_value(float x) const { return value[cell(x)]; }

    // The index of the nearest value, for any x; NaN gives the last entry, as in ggml.
    APEX_HD int32_t nearest_index(float x) const {
        const float capped = x < 113.0f ? x : 113.0f;
        return index[cell(capped > -127.0f ? capped : -127.0f)];
    }
};

}  // namespace apex::cuda
