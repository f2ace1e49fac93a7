// Output errors: e H e^T of rows, in double.
#pragma once

#include <cstdint>

#include "ggml.h"

namespace apex {

// The sum over rows of row * moment * row^T, moment dense and symmetric, n x n; per_row, unless
// null, receives each. Products of floats are added in double in one fixed order.
double quadratic_forms(const float* moment, int64_t n, const float* rows, int64_t n_rows,
                       double* per_row);

// The same of weights less what bytes of a type say.
double output_errors(const float* moment, int64_t n, const float* weights, ggml_type type,
                     const uint8_t* bytes, int64_t n_rows, double* per_row);

}  // namespace apex
