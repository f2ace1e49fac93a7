// Products of rows of BF16 weights with many columns, bit for bit those of ggml_vec_dot_bf16 on
// x86.
//
// ggml computes one product at a time and widens both sides anew for each. Here the sides are
// widened before and several products share what is loaded. The bits are those of ggml compiled for
// AVX2, as this project compiles it: four vectors of eight partial sums over columns 0 to 7, 8 to
// 15, 16 to 23 and 24 to 31 of every 32, added in ggml's order. The same on 64-bit ARM, where ggml
// itself adds one product after the other, in double. (A NaN is one there too, with another sign.)
#pragma once

#include <cstdint>

#include "kernels.h"

namespace apex::kernels {

constexpr int kBf16Rows = 4;              // rows taken at once
constexpr int64_t kBf16RowMultiple = 32;  // of n_per_row

// outputs[c][first + r] = rows[r] . columns[c]. rows: n_rows (1 to kBf16Rows) of n_per_row floats,
// one after the other; columns: n_columns pointers to n_per_row floats. All values are BF16's.
using Bf16Products = void (*)(const float* rows, int n_rows, int64_t n_per_row,
                              const float* const* columns, int64_t n_columns, float* const* outputs,
                              int64_t first);

// nullptr where there is no kernel: Isa::portable, or a CPU without FMA.
Bf16Products bf16_products(Isa isa);

// The same of F16 values, bit for bit ggml_vec_dot_f16's: only its last additions are others.
// nullptr on 64-bit ARM too, where ggml computes them in F16.
Bf16Products f16_products(Isa isa);

}  // namespace apex::kernels
