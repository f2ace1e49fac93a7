// Scale and minimum of a sub-block: the twin of make_qkx2_quants and make_qkx3_quants.
#pragma once

#include "cuda/portable.cuh"

namespace apex::cuda {

struct ScaleMin {
    float scale;
    float the_min;  // subtracted, so >= 0
    // The levels are clamp(nearest_int(inverse * (x - offset))). zero: all levels are 0.
    float inverse;
    float offset;
    bool zero;
    bool out_of_range;  // rounding by floats does not hold: this thread's result is void

    APEX_HD int32_t level(float x, int32_t nmax) const {
        return zero ? 0 : clamp(nearest_int(inverse * (x - offset)), 0, nmax);
    }
};

// The range of candidate scales: (rmin + rdelta * is + nmax) / (max - min), is = 0..nstep.
struct ScaleSteps {
    float rmin;
    float rdelta;
    int nstep;
};

template <bool UseMad>
APEX_HD float deviation(float diff) {
    return UseMad ? absolute(diff) : diff * diff;
}

// One candidate's levels and its weighted sums over them.
template <int N>
struct LevelSums {
    float l, l2, xl;
    float levels[N];

    APEX_HD void run(const float (&x)[N], const float (&w)[N], float inverse, float offset,
                     float top) {
        l = l2 = xl = 0.0f;
        APEX_UNROLL
        for (int i = 0; i < N; ++i) {
            levels[i] = nearest_clamped(inverse * (x[i] - offset), 0.0f, top);
            const float wl = w[i] * levels[i];
            l += wl;
            l2 += wl * levels[i];
            xl += wl * x[i];
        }
    }

    template <bool UseMad>
    APEX_HD float error(const float (&x)[N], const float (&w)[N], float scale,
                        float min_value) const {
        float sum = 0.0f;
        APEX_UNROLL
        for (int i = 0; i < N; ++i) {
            sum += w[i] * deviation<UseMad>(scale * levels[i] + min_value - x[i]);
        }
        return sum;
    }
};

// UseMad: absolute instead of squared error.
template <int N, bool UseMad>
APEX_HD ScaleMin search_scale_min(const float (&x)[N], const float (&w)[N], int nmax,
                                  ScaleSteps steps) {
    float lowest = x[0], highest = x[0];
    float sum_w = w[0], sum_x = w[0] * x[0];
    APEX_UNROLL
    for (int i = 1; i < N; ++i) {
        lowest = smaller(x[i], lowest);
        highest = larger(x[i], highest);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    float min_value = lowest > 0.0f ? 0.0f : lowest;
    const auto top = static_cast<float>(nmax);
    ScaleMin best{0.0f, -min_value, 0.0f, min_value, true, false};
    if (!(highest > min_value)) return best;

    // inverse * (x - offset) is monotonic in x, also after rounding: so if it is in range for the
    // smallest and the largest x, it is for all.
    const auto in_range = [&](float inverse, float offset) {
        return absolute(inverse * (lowest - offset)) <= kInRange &&
               absolute(inverse * (highest - offset)) <= kInRange;
    };
    best.zero = false;
    best.inverse = top / (highest - min_value);
    best.scale = 1.0f / best.inverse;
    best.out_of_range = !in_range(best.inverse, min_value);
    LevelSums<N> sums;
    sums.run(x, w, best.inverse, min_value, top);
    float best_error = sums.template error<UseMad>(x, w, best.scale, min_value);
    APEX_ROLLED
    for (int is = 0; is <= steps.nstep; ++is) {
        // The best minimum so far also shifts and scales the next candidates, as in ggml.
        const float inverse = (steps.rmin + steps.rdelta * is + nmax) / (highest - min_value);
        best.out_of_range = best.out_of_range || !in_range(inverse, min_value);
        sums.run(x, w, inverse, min_value, top);
        const float determinant = sum_w * sums.l2 - sums.l * sums.l;
        if (!(determinant > 0.0f)) continue;
        float this_scale = (sum_w * sums.xl - sum_x * sums.l) / determinant;
        float this_min = (sums.l2 * sum_x - sums.l * sums.xl) / determinant;
        if (this_min > 0.0f) {
            this_min = 0.0f;
            this_scale = sums.xl / sums.l2;
        }
        const float error = sums.template error<UseMad>(x, w, this_scale, this_min);
        if (error < best_error) {
            best_error = error;
            best.scale = this_scale;
            best.inverse = inverse;
            best.offset = min_value;
            min_value = this_min;
        }
    }
    best.the_min = -min_value;
    return best;
}

}  // namespace apex::cuda
