// Products of rows of quantized weights with sixteen columns at a time, on CPUs with AVX-512 VNNI:
// bit for bit those of ggml's tiled products compiled for AVX2 (ggml/src/ggml-cpu/tiled).
//
// There a product is, for every super-block of 256, a sum of integers, which is exact in any order,
// multiplied by the weights' scale, less the same of minima, and then added, times the column's,
// with one rounding.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace apex::kernels {

constexpr int kPanelColumns = 16;

// A super-block of weights made ready: d * scale * code - dmin * min.
struct alignas(64) PanelRow {
    int8_t codes[256];   // what they stand for, in the order of the columns
    int32_t scales[16];  // of every 16 codes
    int32_t mins[16];    // of types that have them
    int32_t offset;      // -128 times the sum of scales times codes: columns are stored plus 128
    float d, dmin;
};

// A super-block of sixteen columns in Q8_K made ready: four neighbouring codes of each together.
struct alignas(64) PanelColumns {
    uint8_t codes[64][kPanelColumns][4];  // plus 128
    int32_t sums[16][kPanelColumns];      // of every 16 codes
    float d[kPanelColumns];
};

// How a type of weights is multiplied.
struct PanelType {
    // row: n_blocks super-blocks of the type, one after the other.
    void (*unpack)(const void* row, PanelRow* blocks, int64_t n_blocks);
    // products[r][c] = rows[r] . column c of the panel. rows: n_rows of n_blocks, one after the
    // other.
    void (*multiply)(const PanelRow* rows, int n_rows, int64_t n_blocks, const PanelColumns* panel,
                     float (*products)[kPanelColumns]);
    // columns: n_columns (1 to kPanelColumns) pointers to n_blocks block_q8_K.
    void (*take_columns)(const void* const* columns, int n_columns, PanelColumns* panel,
                         int64_t n_blocks);
};

// Q2_K, Q3_K, Q5_K, Q6_K, IQ4_XS, IQ3_S, IQ3_XXS, IQ2_S, IQ2_XS, IQ2_XXS; nullptr for others, and
// where there is no kernel: no AVX-512 VNNI, or APEX_ISA asks for less.
const PanelType* panel_type(ggml_type type, Isa isa);

}  // namespace apex::kernels
