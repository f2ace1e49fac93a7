#include "calibration/squared_columns.h"

#include <algorithm>
#include <cmath>

#include "core/simd_clones.h"

namespace apex {
namespace {

APEX_SIMD_CLONES
void sum_tile(const float* const* rows, size_t n_rows, int64_t begin, double* sums) {
    double tile[kColumnTile] = {};
    for (size_t row = 0; row < n_rows; ++row) {
        const float* values = rows[row] + begin;
        for (int64_t j = 0; j < kColumnTile; ++j) {
            const double value = values[j];
            tile[j] += value * value;
        }
    }
    for (int64_t j = 0; j < kColumnTile; ++j) sums[begin + j] = tile[j];
}

void sum_rest(const float* const* rows, size_t n_rows, int64_t begin, int64_t end, double* sums) {
    std::fill(sums + begin, sums + end, 0.0);
    for (size_t row = 0; row < n_rows; ++row) {
        for (int64_t j = begin; j < end; ++j) {
            const double value = rows[row][j];
            sums[j] += value * value;
        }
    }
}

}  // namespace

bool sum_squared_columns(const float* const* rows, size_t n_rows, int64_t begin, int64_t end,
                         double* sums) {
    int64_t column = begin;
    for (; column + kColumnTile <= end; column += kColumnTile) {
        sum_tile(rows, n_rows, column, sums);
    }
    if (column < end) sum_rest(rows, n_rows, column, end, sums);
    return std::all_of(sums + begin, sums + end, [](double sum) { return std::isfinite(sum); });
}

APEX_SIMD_CLONES
void add_sums(const double* source, int64_t begin, int64_t end, double* target) {
    for (int64_t j = begin; j < end; ++j) target[j] += source[j];
}

}  // namespace apex
