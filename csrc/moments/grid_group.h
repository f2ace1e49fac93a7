// A group of 8 weights as grid points and signs (IQ2, IQ3), nearest under the metric of its second
// moment.
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

// Signs of given magnitudes, some in each lane, flipped one by one (in pairs where their number has
// to stay even) for as long as that helps.
class SignSearch {
  public:
    SignSearch(const float* metric, const float* target, float scale, const Lanes* magnitudes)
        : metric_(metric) {
        for (int i = 0; i < kGroup; ++i) {
            const bool minus = target[i] * scale < 0;
            if (minus) signs_ |= each(1 << i);
            odd_ ^= minus;
            levels_[i] = minus ? -magnitudes[i] : magnitudes[i];
            error_[i] = target[i] - scale * levels_[i];
            steps_[i] = 2.0f * scale * levels_[i];
            slope_[i] = all(0.0f);
        }
        for (int j = 0; j < kGroup; ++j) {  // the metric is symmetric
            for (int i = 0; i < kGroup; ++i) slope_[i] += metric[j * kGroup + i] * error_[j];
        }
        find_gains();
    }

    // Returns the costs.
    Lanes run(bool even) {
        if (even) {
            if (odd_) flip_cheapest(all(3e38f));
            for (int turn = 0; turn < 3 && flip_a_pair(); ++turn) continue;
        } else {
            for (int turn = 0; turn < 4 && flip_cheapest(all(kWorthAFlip)); ++turn) continue;
        }
        Lanes cost = all(0.0f);
        for (int i = 0; i < kGroup; ++i) cost += error_[i] * slope_[i];
        return cost;
    }

    int signs(int lane) const { return signs_[lane]; }
    float signed_level(int i, int lane) const { return levels_[i][lane]; }

  private:
    static constexpr float kWorthAFlip = -1e-12f;

    // Of each sign: what flipping it adds to the cost.
    void find_gains() {
        for (int i = 0; i < kGroup; ++i) {
            const Lanes x = steps_[i];
            gains_[i] = 2.0f * x * slope_[i] + x * x * metric_[i * (kGroup + 1)];
        }
    }
    // Sign i of these lanes; gains stay those of before.
    void flip(int i, Mask lanes) {
        if (!any(lanes)) return;
        const Lanes x = pick(lanes, steps_[i], all(0.0f));
        signs_ ^= lanes & each(1 << i);
        levels_[i] = pick(lanes, -levels_[i], levels_[i]);
        steps_[i] = pick(lanes, -steps_[i], steps_[i]);
        error_[i] += x;
        for (int j = 0; j < kGroup; ++j) slope_[j] += metric_[i * kGroup + j] * x;
    }
    // Each lane's own, where that adds less than a limit. False: nowhere.
    bool flip_cheapest(Lanes limit) {
        Lanes least = gains_[0];
        Mask best = {};
        for (int i = 1; i < kGroup; ++i) {
            const Mask less = gains_[i] < least;
            least = pick(less, gains_[i], least);
            best = less ? each(i) : best;
        }
        const Mask wanted = least < limit;
        if (!any(wanted)) return false;
        for (int i = 0; i < kGroup; ++i) flip(i, wanted & (best == i));
        find_gains();
        return true;
    }
    bool flip_a_pair() {
        Mask best = each(-1);  // 8 i + j
        Lanes least = all(kWorthAFlip);
        for (int i = 0; i < kGroup; ++i) {
            for (int j = i + 1; j < kGroup; ++j) {
                const Lanes both =
                    gains_[i] + gains_[j] + 2.0f * metric_[i * kGroup + j] * steps_[i] * steps_[j];
                const Mask less = both < least;
                least = pick(less, both, least);
                best = less ? each(kGroup * i + j) : best;
            }
        }
        if (!any(best >= 0)) return false;
        const Mask first = best >> 3, second = best & 7;
        for (int i = 0; i < kGroup; ++i) {
            flip(i, first == i);
            flip(i, (best >= 0) & (second == i));
        }
        find_gains();
        return true;
    }

    const float* metric_;
    Mask signs_ = {};
    bool odd_ = false;
    Lanes levels_[kGroup];  // with signs
    Lanes steps_[kGroup];   // what flipping one adds to its error
    Lanes error_[kGroup];
    Lanes slope_[kGroup];
    Lanes gains_[kGroup];
};

// The points with the least sum of squares on the metric's diagonal, best first.
class Candidates {
  public:
    Candidates(const GridFormat& format, const float* metric, const float* target, float scale,
               int first, int wanted)
        : wanted_(wanted) {
        float costs[kMaxPoints], least[kParts];
        const auto find = format.point == kGroup ? find_costs<kGroup> : find_costs<kGroup / 2>;
        find(format, metric + first * (kGroup + 1), target + first, scale, costs, least);
        const Lanes limit = all(bound(least));
        for (int p = 0; p < format.n_points; p += kLanes) {
            Lanes cost;
            std::memcpy(&cost, costs + p, sizeof(cost));
            for (uint32_t left = bits(cost <= limit); left != 0; left &= left - 1) {
                const int i = p + __builtin_ctz(left);
                if (n_ < wanted_ || costs[i] < costs_[n_ - 1]) insert(i, costs[i]);
            }
        }
    }

    int size() const { return n_; }
    int operator[](int i) const { return points_[i]; }

  private:
    // Point p is in part p % kParts; the least cost of each part is that of another point.
    static constexpr int kParts = 16;

    template <int kPoint>
    static void find_costs(const GridFormat& format, const float* metric, const float* target,
                           float scale, float* costs, float* least) {
        const float size = scale < 0 ? -scale : scale;
        Lanes square[kPoint], linear[kPoint], parts[kParts / kLanes];
        for (int i = 0; i < kPoint; ++i) {
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
                for (int i = 0; i < kPoint; ++i, column += format.n_points) {
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

// Points that are looked at closely, lane after lane. Lanes without one repeat the first.
class Contest {
  public:
    Contest(const GridFormat& format, const float* metric, const float* target, float scale)
        : format_(format), metric_(metric), target_(target), scale_(scale) {}

    void enter(int first, int second) {
        if (n_ == kLanes) decide();
        points_[n_++] = {first, second, 0};
    }

    // The least cost, the first of equals.
    float decide(FoundGroup& found) {
        decide();
        found = best_;
        return least_;
    }

  private:
    void decide() {
        float levels[kGroup][kLanes];
        for (int k = 0; k < kLanes; ++k) {
            const GridGroup& points = points_[k < n_ ? k : 0];
            const int first = points.first * format_.point;
            const int second = (points.second - 1) * format_.point;
            for (int i = 0; i < kGroup; ++i) {
                levels[i][k] = format_.levels[(i < format_.point ? first : second) + i];
            }
        }
        Lanes magnitudes[kGroup];
        std::memcpy(magnitudes, levels, sizeof(magnitudes));
        SignSearch search(metric_, target_, scale_, magnitudes);
        const Lanes costs = search.run(format_.signs == GridSigns::even);
        for (int k = 0; k < n_; ++k) {
            if (!(costs[k] < least_)) continue;
            least_ = costs[k];
            best_.group = points_[k];
            best_.group.signs = search.signs(k);
            for (int i = 0; i < kGroup; ++i) best_.levels[i] = search.signed_level(i, k);
        }
        n_ = 0;
    }

    const GridFormat& format_;
    const float *metric_, *target_;
    float scale_, least_ = 3e38f;
    int n_ = 0;
    GridGroup points_[kLanes];
    FoundGroup best_ = {};
};

// Returns the cost of what was found.
inline float nearest_group(const GridFormat& format, const float* metric, const float* target,
                           float scale, FoundGroup& found) {
    Contest contest(format, metric, target, scale);
    if (scale == 0) {
        contest.enter(0, 0);
        contest.decide(found);
        return quadratic(metric, target);
    }
    if (format.point == kGroup) {
        const Candidates points(format, metric, target, scale, 0, kCandidates);
        for (int i = 0; i < points.size(); ++i) contest.enter(points[i], 0);
        return contest.decide(found);
    }
    const Candidates left(format, metric, target, scale, 0, kHalfCandidates);
    const Candidates right(format, metric, target, scale, 4, kHalfCandidates);
    for (int i = 0; i < left.size(); ++i) {
        for (int j = 0; j < right.size(); ++j) contest.enter(left[i], right[j]);
    }
    return contest.decide(found);
}

}  // namespace apex::feedback::APEX_FEEDBACK_ISA
