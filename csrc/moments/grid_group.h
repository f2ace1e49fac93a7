// A group of 8 weights as grid points and signs, nearest under the metric of its second moment.
#pragma once

#include <cstdint>
#include <cstring>

#include "moments/feedback_lanes.h"
#include "moments/grid_format.h"

namespace apex::feedback::APEX_FEEDBACK_ISA {

constexpr int kGroup = 8;
constexpr int kCandidates = 4;      // points that are looked at closely, where they have 8 levels
constexpr int kHalfCandidates = 3;  // of 4 levels: for each half of a group
constexpr int kMaxPoints = 1024;

// The group's own metric: (target - found) metric (target - found)^T is what is minimised.
struct FoundGroup {
    GridGroup group;
    float levels[kGroup];  // with signs
};

inline float quadratic(const float* metric, const float* x) {
    float sum = 0;
    for (int i = 0; i < kGroup; ++i) {
        float row = 0;
        for (int j = 0; j < kGroup; ++j) row += metric[i * kGroup + j] * x[j];
        sum += row * x[i];
    }
    return sum;
}

// Signs of given magnitudes, flipped one by one (in pairs where their number has to stay even) for
// as long as that helps.
class SignSearch {
  public:
    SignSearch(const float* metric, const float* target, float scale, const float* magnitudes)
        : metric_(metric) {
        for (int i = 0; i < kGroup; ++i) {
            const bool minus = target[i] * scale < 0;
            if (minus) signs_ |= 1 << i;
            levels_[i] = minus ? -magnitudes[i] : magnitudes[i];
            error_[i] = target[i] - scale * levels_[i];
            steps_[i] = 2.0f * scale * levels_[i];
            slope_[i] = 0;
        }
        for (int j = 0; j < kGroup; ++j) {  // the metric is symmetric
            for (int i = 0; i < kGroup; ++i) slope_[i] += metric[j * kGroup + i] * error_[j];
        }
        find_gains();
    }

    float run(bool even) {
        if (even) {
            if (is_odd()) flip(cheapest());
            for (int turn = 0; turn < 3 && flip_a_pair(); ++turn) continue;
        } else {
            for (int turn = 0; turn < 4; ++turn) {
                const int i = cheapest();
                if (gains_[i] >= -1e-12f) break;
                flip(i);
            }
        }
        float cost = 0;
        for (int i = 0; i < kGroup; ++i) cost += error_[i] * slope_[i];
        return cost;
    }

    int signs() const { return signs_; }
    float signed_level(int i) const { return levels_[i]; }

  private:
    bool is_odd() const { return __builtin_popcount(static_cast<unsigned>(signs_)) & 1; }

    // Of each sign: what flipping it adds to the cost.
    void find_gains() {
        for (int i = 0; i < kGroup; ++i) {
            const float x = steps_[i];
            gains_[i] = 2.0f * x * slope_[i] + x * x * metric_[i * (kGroup + 1)];
        }
    }
    int cheapest() const {
        int best = 0;
        for (int i = 1; i < kGroup; ++i) {
            if (gains_[i] < gains_[best]) best = i;
        }
        return best;
    }
    void flip(int i) {
        const float x = steps_[i];
        signs_ ^= 1 << i;
        levels_[i] = -levels_[i];
        steps_[i] = -x;
        error_[i] += x;
        for (int j = 0; j < kGroup; ++j) slope_[j] += metric_[i * kGroup + j] * x;
        find_gains();
    }
    bool flip_a_pair() {
        int first = -1, second = -1;
        float least = -1e-12f;
        for (int i = 0; i < kGroup; ++i) {
            for (int j = i + 1; j < kGroup; ++j) {
                const float both =
                    gains_[i] + gains_[j] + 2.0f * metric_[i * kGroup + j] * steps_[i] * steps_[j];
                if (both >= least) continue;
                least = both;
                first = i;
                second = j;
            }
        }
        if (first < 0) return false;
        flip(first);
        flip(second);
        return true;
    }

    const float* metric_;
    int signs_ = 0;
    float levels_[kGroup];  // with signs
    float steps_[kGroup];   // what flipping one adds to its error
    float error_[kGroup];
    float slope_[kGroup];
    float gains_[kGroup];
};

// The points with the least sum of squares on the metric's diagonal, best first.
class Candidates {
  public:
    Candidates(const GridFormat& format, const float* metric, const float* target, float scale,
               int first, int wanted)
        : wanted_(wanted) {
        float costs[kMaxPoints], least[kParts];
        find_costs(format, metric + first * (kGroup + 1), target + first, scale, costs, least);
        const Lanes limit = all(bound(least));
        for (int p = 0; p < format.n_points; p += kLanes) {
            Lanes cost;
            std::memcpy(&cost, costs + p, sizeof(cost));
            if (!any(cost <= limit)) continue;
            for (int i = p; i < p + kLanes; ++i) {
                if (n_ < wanted_ || costs[i] < costs_[n_ - 1]) insert(i, costs[i]);
            }
        }
    }

    int size() const { return n_; }
    int operator[](int i) const { return points_[i]; }

  private:
    // Point p is in part p % kParts; the least cost of each part is that of another point.
    static constexpr int kParts = 16;

    static void find_costs(const GridFormat& format, const float* metric, const float* target,
                           float scale, float* costs, float* least) {
        const float size = scale < 0 ? -scale : scale;
        Lanes square[kGroup], linear[kGroup], parts[kParts / kLanes];
        for (int i = 0; i < format.point; ++i) {
            const float weight = metric[i * (kGroup + 1)];
            const float wish = target[i] < 0 ? -target[i] : target[i];
            square[i] = all(weight * size * size);
            linear[i] = all(2.0f * weight * size * wish);
        }
        for (Lanes& part : parts) part = all(3e38f);
        for (int p = 0; p < format.n_points; p += kParts) {
            for (int part = 0; part < kParts / kLanes; ++part) {
                const int at = p + part * kLanes;
                const float* column = format.columns + at;
                Lanes cost = all(0.0f);
                for (int i = 0; i < format.point; ++i, column += format.n_points) {
                    Lanes level;
                    std::memcpy(&level, column, sizeof(level));
                    cost += level * (square[i] * level - linear[i]);
                }
                std::memcpy(costs + at, &cost, sizeof(cost));
                parts[part] = cost < parts[part] ? cost : parts[part];
            }
        }
        std::memcpy(least, parts, sizeof(parts));
    }

    // At least `wanted` points cost no more: of the parts' least costs, the one with that rank.
    float bound(const float* least) const {
        Lanes counts[kParts / kLanes] = {};
        float found[kParts], result = 3e38f;
        for (int i = 0; i < kParts; ++i) {
            for (int part = 0; part < kParts / kLanes; ++part) {
                Lanes values;
                std::memcpy(&values, least + part * kLanes, sizeof(values));
                counts[part] += pick(all(least[i]) <= values, all(1.0f), all(0.0f));
            }
        }
        std::memcpy(found, counts, sizeof(found));
        for (int i = 0; i < kParts; ++i) {
            if (found[i] >= static_cast<float>(wanted_) && least[i] < result) result = least[i];
        }
        return result;
    }

    void insert(int point, float cost) {
        int at = n_ < wanted_ ? n_++ : wanted_ - 1;
        for (; at > 0 && costs_[at - 1] > cost; --at) {
            costs_[at] = costs_[at - 1];
            points_[at] = points_[at - 1];
        }
        costs_[at] = cost;
        points_[at] = point;
    }

    int wanted_, n_ = 0;
    int points_[kCandidates];
    float costs_[kCandidates];
};

inline void consider(const GridFormat& format, const float* metric, const float* target,
                     float scale, int first, int second, float& best, FoundGroup& found) {
    float magnitudes[kGroup];
    const size_t point = static_cast<size_t>(format.point);
    std::memcpy(magnitudes, format.levels + static_cast<size_t>(first) * point,
                point * sizeof(float));
    if (format.point < kGroup) {
        std::memcpy(magnitudes + point, format.levels + static_cast<size_t>(second) * point,
                    point * sizeof(float));
    }
    SignSearch search(metric, target, scale, magnitudes);
    const float cost = search.run(format.even_signs);
    if (!(cost < best)) return;
    best = cost;
    found.group.first = first;
    found.group.second = second;
    found.group.signs = search.signs();
    for (int i = 0; i < kGroup; ++i) found.levels[i] = search.signed_level(i);
}

// Returns the cost of what was found.
inline float nearest_group(const GridFormat& format, const float* metric, const float* target,
                           float scale, FoundGroup& found) {
    float best = 3e38f;
    if (scale == 0) {
        consider(format, metric, target, scale, 0, 0, best, found);
        return quadratic(metric, target);
    }
    if (format.point == kGroup) {
        const Candidates points(format, metric, target, scale, 0, kCandidates);
        for (int i = 0; i < points.size(); ++i) {
            consider(format, metric, target, scale, points[i], 0, best, found);
        }
        return best;
    }
    const Candidates left(format, metric, target, scale, 0, kHalfCandidates);
    const Candidates right(format, metric, target, scale, 4, kHalfCandidates);
    for (int i = 0; i < left.size(); ++i) {
        for (int j = 0; j < right.size(); ++j) {
            consider(format, metric, target, scale, left[i], right[j], best, found);
        }
    }
    return best;
}

}  // namespace apex::feedback::APEX_FEEDBACK_ISA
