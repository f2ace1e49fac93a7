// A group of 8 weights as a point of IQ1's book, all its levels moved up or down: the nearest under
// the metric of its second moment.
//
// Levels are -1, 0 and 1, so half a point is one of 81. What a first half costs with the best real
// second half bounds what any point with it costs: few first halves have to be looked into.
#pragma once

#include <cstdint>
#include <cstring>

#include "moments/feedback_lanes.h"
#include "moments/grid_group.h"

namespace apex::feedback::APEX_FEEDBACK_ISA {

constexpr int kHalf = kGroup / 2;
constexpr int kHalves = 81;
constexpr int kPaddedHalves = 96;
constexpr int kHalfVectors = kPaddedHalves / kLanes;

// The book by halves; past the last half, and where there is no point, nothing is allowed.
struct HalfBook {
    float levels[kHalf][kPaddedHalves] = {};
    uint32_t allowed[kHalves][kHalfVectors] = {};  // a bit for each lane
    uint16_t points[kHalves][kHalves] = {};

    explicit HalfBook(const GridFormat& format) {
        for (int half = 0; half < kHalves; ++half) {
            for (int i = 0, left = half; i < kHalf; ++i, left /= 3) {
                levels[i][half] = static_cast<float>(left % 3 - 1);
            }
        }
        for (int point = 0; point < format.n_points; ++point) {
            const float* values = format.levels + point * kGroup;
            const int first = place(values), second = place(values + kHalf);
            points[first][second] = static_cast<uint16_t>(point);
            allowed[first][second / kLanes] |= 1u << (second % kLanes);
        }
    }

    Lanes vector(int i, int v) const {
        Lanes values;
        std::memcpy(&values, levels[i] + v * kLanes, sizeof(values));
        return values;
    }

  private:
    static int place(const float* values) {
        int half = 0;
        for (int i = kHalf - 1; i >= 0; --i) half = 3 * half + static_cast<int>(values[i]) + 1;
        return half;
    }
};

// IQ1_S and IQ1_M have one book.
inline const HalfBook& half_book(const GridFormat& format) {
    static const HalfBook book(format);
    return book;
}

// A metric M as that of the first half once the second makes good what it can, S = F - C L^-1 C^T,
// and that of the second, L, with what an error of the first adds to it: K = L^-1 C^T.
struct HalfMetrics {
    float first[kHalf * kHalf], second[kHalf * kHalf], carried[kHalf * kHalf];
    Lanes first_squares[kHalfVectors], second_squares[kHalfVectors];  // of each half's levels

    void set(const HalfBook& book, const float* metric) {
        double solved[kHalf][2 * kHalf];  // L beside C^T, then 1 beside K
        for (int i = 0; i < kHalf; ++i) {
            for (int j = 0; j < kHalf; ++j) {
                second[i * kHalf + j] = metric[(kHalf + i) * kGroup + kHalf + j];
                solved[i][j] = second[i * kHalf + j];
                solved[i][kHalf + j] = metric[(kHalf + i) * kGroup + j];
            }
        }
        eliminate(solved);
        for (int i = 0; i < kHalf; ++i) {
            for (int j = 0; j < kHalf; ++j) {
                carried[i * kHalf + j] = static_cast<float>(solved[i][kHalf + j]);
                double sum = metric[i * kGroup + j];
                for (int k = 0; k < kHalf; ++k) {
                    sum -= metric[i * kGroup + kHalf + k] * solved[k][kHalf + j];
                }
                first[i * kHalf + j] = static_cast<float>(sum);
            }
        }
        set_squares(book, first, first_squares);
        set_squares(book, second, second_squares);
    }

  private:
    // Gauss-Jordan; L is positive definite.
    static void eliminate(double (*rows)[2 * kHalf]) {
        for (int k = 0; k < kHalf; ++k) {
            const double pivot = rows[k][k];
            for (int j = k; j < 2 * kHalf; ++j) rows[k][j] /= pivot;
            for (int i = 0; i < kHalf; ++i) {
                if (i == k) continue;
                const double factor = rows[i][k];
                for (int j = k; j < 2 * kHalf; ++j) rows[i][j] -= factor * rows[k][j];
            }
        }
    }
    static void set_squares(const HalfBook& book, const float* metric, Lanes* squares) {
        for (int v = 0; v < kHalfVectors; ++v) {
            Lanes sum = all(0.0f);
            for (int i = 0; i < kHalf; ++i) {
                Lanes row = all(0.0f);
                for (int j = 0; j < kHalf; ++j) {
                    row += metric[i * kHalf + j] * book.vector(j, v);
                }
                sum += row * book.vector(i, v);
            }
            squares[v] = sum;
        }
    }
};

inline void multiply_half(const float* matrix, const float* x, float* result) {
    for (int i = 0; i < kHalf; ++i) {
        result[i] = 0;
        for (int j = 0; j < kHalf; ++j) result[i] += matrix[i * kHalf + j] * x[j];
    }
}

class ShiftedSearch {
  public:
    // Nothing that costs `limit` or more is found.
    ShiftedSearch(const HalfBook& book, const HalfMetrics& metrics, float scale, float limit)
        : book_(book), metrics_(metrics), scale_(scale), least_(limit) {}

    // Tries all points, their levels moved down or up.
    void run(const float* target, bool down) {
        const float shift = down ? -kGridShift : kGridShift;
        float wish[kGroup], slope[kHalf], offset = 0;
        for (int i = 0; i < kGroup; ++i) wish[i] = target[i] - scale_ * shift;
        multiply_half(metrics_.first, wish, slope);
        for (int i = 0; i < kHalf; ++i) offset += wish[i] * slope[i];
        Lanes costs[kHalfVectors];
        find_costs(metrics_.first_squares, slope, offset, costs);
        float bounds[kPaddedHalves];
        std::memcpy(bounds, costs, sizeof(bounds));
        const int best = least_of(costs);
        look_into(best, bounds[best], wish, down);
        for (int v = 0; v < kHalfVectors; ++v) {
            for (uint32_t left = bits(costs[v] < all(least_)); left != 0; left &= left - 1) {
                const int half = v * kLanes + __builtin_ctz(left);
                if (half < kHalves && half != best) look_into(half, bounds[half], wish, down);
            }
        }
    }

    // The least cost, or 3e38.
    float result(FoundGroup& found) const {
        if (first_ < 0) return 3e38f;
        found.group = {book_.points[first_][second_], 0, down_ ? 1 : 0};
        for (int i = 0; i < kHalf; ++i) {
            const float shift = down_ ? -kGridShift : kGridShift;
            found.levels[i] = book_.levels[i][first_] + shift;
            found.levels[kHalf + i] = book_.levels[i][second_] + shift;
        }
        return least_;
    }

  private:
    // The first half that costs least; what lies past the last costs as much as the one of zeros.
    static int least_of(const Lanes* costs) {
        Lanes least = costs[0];
        for (int v = 1; v < kHalfVectors; ++v) least = costs[v] < least ? costs[v] : least;
        float found = least[0];
        for (int lane = 1; lane < kLanes; ++lane) found = least[lane] < found ? least[lane] : found;
        for (int v = 0; v < kHalfVectors; ++v) {
            const uint32_t equal = bits(costs[v] == all(found));
            if (equal != 0) return v * kLanes + __builtin_ctz(equal);
        }
        return 0;
    }
    // offset - 2 scale slope x + scale^2 squares, of all halves x
    void find_costs(const Lanes* squares, const float* slope, float offset, Lanes* costs) const {
        for (int v = 0; v < kHalfVectors; ++v) {
            Lanes linear = all(0.0f);
            for (int i = 0; i < kHalf; ++i) linear += slope[i] * book_.vector(i, v);
            costs[v] = offset + scale_ * (scale_ * squares[v] - 2.0f * linear);
        }
    }
    // All points with this first half.
    void look_into(int half, float bound, const float* wish, bool down) {
        if (!(bound < least_)) return;
        float error[kHalf], target[kHalf], slope[kHalf], offset = bound;
        for (int i = 0; i < kHalf; ++i) error[i] = wish[i] - scale_ * book_.levels[i][half];
        multiply_half(metrics_.carried, error, target);
        for (int i = 0; i < kHalf; ++i) target[i] += wish[kHalf + i];
        multiply_half(metrics_.second, target, slope);
        for (int i = 0; i < kHalf; ++i) offset += target[i] * slope[i];
        Lanes costs[kHalfVectors];
        find_costs(metrics_.second_squares, slope, offset, costs);
        for (int v = 0; v < kHalfVectors; ++v) {
            uint32_t left = bits(costs[v] < all(least_)) & book_.allowed[half][v];
            for (; left != 0; left &= left - 1) {
                const int lane = __builtin_ctz(left);
                if (!(costs[v][lane] < least_)) continue;
                least_ = costs[v][lane];
                first_ = half;
                second_ = v * kLanes + lane;
                down_ = down;
            }
        }
    }

    const HalfBook& book_;
    const HalfMetrics& metrics_;
    float scale_, least_;
    int first_ = -1, second_ = 0;
    bool down_ = false;
};

}  // namespace apex::feedback::APEX_FEEDBACK_ISA
