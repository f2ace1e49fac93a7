#include "core/row_error.h"

#include <cstring>

#include "core/simd_clones.h"

namespace apex {
namespace {

constexpr int kLanes = 16;

double add_lanes(const double* lanes) {
    double sums[kLanes];
    std::memcpy(sums, lanes, sizeof(sums));
    for (int width = kLanes / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) sums[i] += sums[i + width];
    }
    return sums[0];
}

APEX_SIMD_CLONES
void add_squares(const float* original, const float* restored, int64_t n, double* errors,
                 double* weights) {
    for (int64_t i = 0; i < n; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const double x = original[i + lane];
            const double difference = x - static_cast<double>(restored[i + lane]);
            errors[lane] += difference * difference;
            weights[lane] += x * x;
        }
    }
}

APEX_SIMD_CLONES
void add_differences(const float* original, const float* restored, int64_t n, double* errors) {
    for (int64_t i = 0; i < n; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const double difference =
                static_cast<double>(original[i + lane]) - static_cast<double>(restored[i + lane]);
            errors[lane] += difference * difference;
        }
    }
}

// Looks for an exponent of all ones; an integer loop, so NaN comparison rules do not matter.
APEX_SIMD_CLONES
uint32_t largest_exponent(const float* values, int64_t n) {
    uint32_t most = 0;
    for (int64_t i = 0; i < n; ++i) {
        uint32_t bits;
        std::memcpy(&bits, &values[i], sizeof(bits));
        const uint32_t exponent = bits & 0x7f800000u;
        most = exponent > most ? exponent : most;
    }
    return most;
}

}  // namespace

RowError row_error(const float* original, const float* restored, int64_t n) {
    double errors[kLanes] = {};
    double weights[kLanes] = {};
    const int64_t whole = n / kLanes * kLanes;
    add_squares(original, restored, whole, errors, weights);
    for (int64_t i = whole; i < n; ++i) {
        const double x = original[i];
        const double difference = x - static_cast<double>(restored[i]);
        errors[i % kLanes] += difference * difference;
        weights[i % kLanes] += x * x;
    }
    return {add_lanes(errors), add_lanes(weights)};
}

double squared_error(const float* original, const float* restored, int64_t n) {
    double errors[kLanes] = {};
    const int64_t whole = n / kLanes * kLanes;
    add_differences(original, restored, whole, errors);
    for (int64_t i = whole; i < n; ++i) {
        const double difference =
            static_cast<double>(original[i]) - static_cast<double>(restored[i]);
        errors[i % kLanes] += difference * difference;
    }
    return add_lanes(errors);
}

bool all_finite(const float* values, int64_t n) {
    return largest_exponent(values, n) != 0x7f800000u;
}

}  // namespace apex
