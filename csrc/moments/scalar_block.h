// One block of a scalar format in lanes: levels nearest to weights, and the errors they leave.
#pragma once

#include "moments/feedback_lanes.h"
#include "moments/scalar_format.h"

namespace apex::feedback::APEX_FEEDBACK_ISA {

constexpr int kMaxBlock = 32;

// The level nearest to a quotient.
inline Lanes nearest_level(const ScalarFormat& format, Lanes quotient) {
    if (!format.has_code_book) {
        return clamp(round(quotient), static_cast<float>(format.min_level),
                     static_cast<float>(format.max_level));
    }
    Lanes level = all(kCodeBook[0]);
    for (int i = 0; i < 15; ++i) {
        const Mask above = quotient > all(0.5f * (kCodeBook[i] + kCodeBook[i + 1]));
        level += pick(above, all(kCodeBook[i + 1] - kCodeBook[i]), all(0.0f));
    }
    return level;
}

// Levels of a block column by column, each error made good in the block's later columns through
// root (upper triangular, stride floats a row); weights are changed. Returns the sum of the squared
// errors, each in units of its pivot; errors, unless null, receives them.
template <int kBlock>
inline Lanes quantize_block(const ScalarFormat& format, const float* root, const float* pivots,
                            Lanes* weights, Lanes scale, Lanes minimum, Lanes* levels,
                            Lanes* errors) {
    const Lanes inverse_scale = inverse(scale);
    Lanes cost = all(0.0f);
    for (int j = 0; j < kBlock; ++j) {
        levels[j] = nearest_level(format, (weights[j] + minimum) * inverse_scale);
        const Lanes error = (weights[j] - (scale * levels[j] - minimum)) * pivots[j];
        cost += error * error;
        if (errors != nullptr) errors[j] = error;
        const float* row = root + j * kBlock;
        for (int k = j + 1; k < kBlock; ++k) weights[k] -= error * row[k];
    }
    return cost;
}

}  // namespace apex::feedback::APEX_FEEDBACK_ISA
