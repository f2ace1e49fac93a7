#include "core/log_sum_exp.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/simd_clones.h"

namespace apex {
namespace {

// A vector register of the widest kind, and the number of partial sums whatever the machine has.
constexpr int64_t kLanes = 16;

// Floats of a lane are added this often before they go to a double: keeps their error at 2^-19.
constexpr int64_t kAddsInFloat = 32;

// exp(x) for x <= 0 to 2 ulp, 0 below -87.3. Cody-Waite reduction by ln 2 in two parts, then the
// Taylor polynomial of degree 7 over |r| <= ln(2)/2, whose remainder is below 1e-8.
inline __attribute__((always_inline)) float exp_not_positive(float x) {
    x = x < -88.0f ? -88.0f : x;                          // NaN stays NaN
    const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits + 127u) << 23;  // the integer is in the low bits; -127 gives the bits of 0
    float scale;
    std::memcpy(&scale, &bits, sizeof(scale));
    return p * scale;
}

APEX_SIMD_CLONES
void lane_maxima(const float* row, int64_t n, float* maxima) {
    for (int64_t i = 0; i < n; i += kLanes) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const float value = row[i + lane];
            maxima[lane] = maxima[lane] < value ? value : maxima[lane];
        }
    }
}

APEX_SIMD_CLONES
void add_exponentials(const float* row, int64_t n, float largest, double* sums) {
    for (int64_t begin = 0; begin < n; begin += kLanes * kAddsInFloat) {
        const int64_t end = std::min(n, begin + kLanes * kAddsInFloat);
        float partial[kLanes] = {};
        for (int64_t i = begin; i < end; i += kLanes) {
            for (int64_t lane = 0; lane < kLanes; ++lane) {
                partial[lane] += exp_not_positive(row[i + lane] - largest);
            }
        }
        for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += partial[lane];
    }
}

}  // namespace

double log_sum_exp(const float* row, int64_t n) {
    const int64_t n_whole = n / kLanes * kLanes;
    float tail[kLanes];
    std::fill(tail, tail + kLanes, -INFINITY);
    std::copy(row + n_whole, row + n, tail);

    float maxima[kLanes];
    std::copy(tail, tail + kLanes, maxima);
    lane_maxima(row, n_whole, maxima);
    float largest = maxima[0];
    for (const float value : maxima) largest = largest < value ? value : largest;

    double sums[kLanes] = {};
    add_exponentials(row, n_whole, largest, sums);
    add_exponentials(tail, kLanes, largest, sums);
    double sum = 0;
    for (const double lane : sums) sum += lane;
    return static_cast<double>(largest) + std::log(sum);
}

}  // namespace apex
