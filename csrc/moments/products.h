// Sums of products of columns: the arithmetic of a second moment X^T X.
#pragma once

#include <cstddef>
#include <cstdint>

namespace apex {

// A symmetric n x n matrix as its lower triangle, row after row: (i, j) with j <= i lies at
// i * (i + 1) / 2 + j.
constexpr int64_t packed_size(int64_t n) {
    return n * (n + 1) / 2;
}

// Rows of a matrix that one thread adds up at a time.
constexpr int64_t kProductTile = 32;

// For i from begin to end (begin a multiple of kProductTile) and j <= i:
//
//     sums[i, j] += rows[0][i] * rows[0][j] + rows[1][i] * rows[1][j] + ...
//
// Products of at most kProductRows rows are added in float
// in the order of the rows, what they give in double: the same for any split over threads and any
// instruction set.
constexpr size_t kProductRows = 128;
void add_products(const float* const* rows, size_t n_rows, int64_t n, int64_t begin, int64_t end,
                  double* sums);

}  // namespace apex
