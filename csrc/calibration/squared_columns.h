// Sums of squares down the columns of rows: the arithmetic of an importance matrix.
#pragma once

#include <cstddef>
#include <cstdint>

namespace apex {

// Columns added up together; a multiple of every vector width.
constexpr int64_t kColumnTile = 32;

// sums[j] = rows[0][j]^2 + rows[1][j]^2 + ... for begin <= j < end, added in the order of the rows.
// Columns do not touch each other, so any split of them over threads gives the same sums, and so
// does any instruction set: the square of a float is exact in double, each addition rounds once.
// Returns false where a sum is not finite (the rows hold an Inf or a NaN).
bool sum_squared_columns(const float* const* rows, size_t n_rows, int64_t begin, int64_t end,
                         double* sums);

// target[j] += source[j]
void add_sums(const double* source, int64_t begin, int64_t end, double* target);

}  // namespace apex
