// The normalizer of a row of logits.
#pragma once

#include <cstdint>

namespace apex {

// ln(sum of exp(row[i])), within 1e-6 of the exact value; the log-probability of i is row[i] less
// this. NaN where the row holds NaN or +Inf, or nothing but -Inf. The same on every machine: lanes
// are added in a fixed order.
double log_sum_exp(const float* row, int64_t n);

}  // namespace apex
