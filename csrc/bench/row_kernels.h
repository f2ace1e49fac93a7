// What a CPU does to rows of weights, as functions with an input and an output that is known.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "bench/kernel_bench.h"

namespace apex {

// An operation on rows, and what it makes of the tile.
struct RowKernel {
    size_t in_row = 0, out_row = 0;  // bytes
    std::function<void(const uint8_t* in, uint8_t* out, int64_t n_rows)> compute;
    std::vector<uint8_t> input, expected;  // the tile
    double relative_error = 0;
};

// Throws Error where the kernel's own results are wrong, QuantizeError where the tile cannot be
// stored in the type. The tile's imatrix must outlive the kernel.
RowKernel make_row_kernel(KernelOperation operation, ggml_type type, const KernelTile& tile);

}  // namespace apex
