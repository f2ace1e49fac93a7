// Sums of squares of a row and of its quantization error, in double, in one fixed order.
#pragma once

#include <cstdint>

namespace apex {

struct RowError {
    double squared_error = 0;    // sum of (original - restored)^2
    double squared_weights = 0;  // sum of original^2
};

// Element i goes to partial sum i % 16, and the sixteen are added pairwise at the end: the same
// result for every instruction set, thread count and batch size.
RowError row_error(const float* original, const float* restored, int64_t n);

// The first of the two alone, for rows whose weights are added up already; the same bits.
double squared_error(const float* original, const float* restored, int64_t n);

// True if no element is NaN or infinite.
bool all_finite(const float* values, int64_t n);

}  // namespace apex
