// Which rows of an input meet which matrix, in the order the CPU adds them up (input_squares.cpp).
// Plain C++ too: twin_vs_squares compares it with the CPU's sums, bit for bit.
#pragma once

#include "core/device_input.h"
#include "cuda/portable.cuh"

namespace apex::cuda {

APEX_HD const float* row_at(const DeviceInput& input, int64_t i1, int64_t i2, int64_t i3) {
    const char* at =
        static_cast<const char*>(input.data) +
        (i1 * static_cast<int64_t>(input.nb[1]) + i2 * static_cast<int64_t>(input.nb[2]) +
         i3 * static_cast<int64_t>(input.nb[3]));
    return reinterpret_cast<const float*>(at);
}

// The planes (i2, i3) that ggml's broadcasting sends to one matrix; all their ne1 rows go there.
struct Planes {
    int64_t first2, first3, n2, n3;

    APEX_HD Planes(const DeviceInput& input, int64_t matrix)
        : first2(matrix % input.n_matrices[0]), first3(matrix / input.n_matrices[0]) {
        n2 = count_of(input.ne[2], first2, input.n_matrices[0]);
        n3 = count_of(input.ne[3], first3, input.n_matrices[1]);
    }

    APEX_HD int64_t count() const { return n2 * n3; }

    // The first row of the i-th.
    APEX_HD const float* rows(const DeviceInput& input, int64_t i) const {
        return row_at(input, 0, first2 + i % n2 * input.n_matrices[0],
                      first3 + i / n2 * input.n_matrices[1]);
    }

    APEX_HD static int64_t count_of(int64_t n, int64_t first, int64_t step) {
        return n > first ? (n - first + step - 1) / step : 0;
    }
};

// Routed rows are numbered by token, then by slot. A batch has far fewer than 2^31.
APEX_HD uint32_t n_routed_rows(const DeviceInput& input) {
    return static_cast<uint32_t>(input.n_used * input.n_tokens);
}

APEX_HD int32_t expert_of(const DeviceInput& input, uint32_t i) {
    const auto n_used = static_cast<uint32_t>(input.n_used);
    const char* at = static_cast<const char*>(input.experts) +
                     (i % n_used * input.expert_nb[0] + i / n_used * input.expert_nb[1]);
    return *reinterpret_cast<const int32_t*>(at);
}

APEX_HD const float* routed_row(const DeviceInput& input, uint32_t i) {
    const auto n_used = static_cast<uint32_t>(input.n_used);
    return row_at(input, i % n_used % static_cast<uint32_t>(input.ne[1]), i / n_used, 0);
}

// The square of a float is exact in double, so the addition is all that rounds.
APEX_HD double add_square(double sum, float value) {
    const double wide = value;
    return sum + wide * wide;
}

APEX_HD bool is_finite_sum(double sum) {
    return sum - sum == 0.0;
}

}  // namespace apex::cuda
