// What an error in a group of 8 weights costs, and what it asks of later columns.
#pragma once

#include "moments/shifted_group.h"

namespace apex::feedback::APEX_FEEDBACK_ISA {

struct GroupMetric {
    float values[kGroup * kGroup];
    const HalfMetrics* halves = nullptr;  // the same by halves, where levels are shifted

    void split(const GridFormat& format, HalfMetrics& result) {
        if (!format.shifted()) return;
        result.set(half_book(format), values);
        halves = &result;
    }
};

// Which way levels may be shifted, where they are.
constexpr int kUp = 1, kDown = 2, kEitherWay = 3;

// Returns the cost of what was found. Of shifted levels nothing is found that costs `limit` or
// more, and 3e38 is returned.
inline float nearest(const GridFormat& format, const GroupMetric& metric, const float* target,
                     float scale, int ways, float limit, FoundGroup& found) {
    if (metric.halves == nullptr) {
        return nearest_group(format, metric.values, target, scale, found);
    }
    ShiftedSearch search(half_book(format), *metric.halves, scale, limit);
    if ((ways & kUp) != 0) search.run(target, false);
    if ((ways & kDown) != 0) search.run(target, true);
    return search.result(found);
}

// Metric and pivots of one group: of what error costs in it once later columns make good what they
// can. With X the inverse of the group's triangle U of the root, the metric is X X^T.
struct GroupStep {
    GroupMetric metric;
    float errors[kGroup * kGroup];  // X: an error times X is its share for each of U's rows

    // element(i, j) of U, j >= i
    template <class Element>
    void set(const Element& element) {
        double x[kGroup * kGroup] = {};
        for (int i = kGroup - 1; i >= 0; --i) {
            x[i * kGroup + i] = 1.0;
            for (int k = i + 1; k < kGroup; ++k) {
                for (int j = k; j < kGroup; ++j)
                    x[i * kGroup + j] -= element(i, k) * x[k * kGroup + j];
            }
            for (int j = i; j < kGroup; ++j) x[i * kGroup + j] /= element(i, i);
        }
        for (int i = 0; i < kGroup; ++i) {
            for (int j = 0; j < kGroup; ++j) {
                double sum = 0;
                for (int k = 0; k < kGroup; ++k) sum += x[i * kGroup + k] * x[j * kGroup + k];
                metric.values[i * kGroup + j] = static_cast<float>(sum);
                errors[i * kGroup + j] = static_cast<float>(x[i * kGroup + j]);
            }
        }
    }

    void shares(const float* error, float* result) const {
        for (int j = 0; j < kGroup; ++j) {
            result[j] = 0;
            for (int i = 0; i <= j; ++i) result[j] += error[i] * errors[i * kGroup + j];
        }
    }
};

}  // namespace apex::feedback::APEX_FEEDBACK_ISA
