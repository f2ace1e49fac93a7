// ggml's types whose weights are points of a grid times a scale: IQ2 and IQ3, where levels have
// signs of their own, and IQ1, where all levels of a point are moved up or down.
#pragma once

#include <cstdint>
#include <vector>

#include "ggml.h"

namespace apex {

// What the levels of a group have beside their point.
enum class GridSigns {
    each,  // a sign for each
    even,  // the same, an even number of minus signs in every group of 8: the last is implied
    group_shift,  // all are moved by kGridShift up or down
    block_shift,  // the same way in all groups of a block
};

constexpr float kGridShift = 0.125f;  // IQ1S_DELTA and IQ1M_DELTA

// A super-block of 256 has one d in half precision; a block multiplies it with (2 s + 1) * step. A
// group of 8 weights is one point of 8 levels, or two of 4.
struct GridFormat {
    ggml_type type;
    int block;      // weights that share an s
    int point;      // weights of a grid point
    float step;     // half of what s = 1 and s = 0 differ by
    int max_scale;  // s is 0 to this
    GridSigns signs;
    int n_points;
    const float* levels;   // n_points x point
    const float* columns;  // the same by level: point x n_points

    float multiplier(int s) const { return (2.0f * static_cast<float>(s) + 1.0f) * step; }
    bool shifted() const { return signs >= GridSigns::group_shift; }
};

const GridFormat* grid_format(ggml_type type);

// A group as it is stored.
struct GridGroup {
    int first = 0, second = 0;  // points; second where a point has 4 levels
    int signs = 0;              // a bit for each minus; 1 where levels are moved down
};

struct GridBlock {
    float d = 0;
    int s[16] = {};
    GridGroup groups[32];
};

// Reads d and s; groups stay as they are.
void read_grid_scales(const GridFormat& format, const uint8_t* stored, GridBlock& block);

// Writes ggml_type_size(type) bytes.
void write_grid_block(const GridFormat& format, const GridBlock& block, uint8_t* stored);

}  // namespace apex
