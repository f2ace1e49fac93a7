// Scale and minimum of a sub-block: the twin of make_qkx2_quants and make_qkx3_quants.
#pragma once

#include "superblocks.h"

namespace apex::kernels::APEX_ISA {

struct ScaleMin {
    F32 scale;
    F32 the_min;  // subtracted, so >= 0
    // The levels are clamp(nearest_int(inverse * (x - offset))): kept in this form because most
    // callers derive levels again from the rounded scales. zero: all levels are 0.
    F32 inverse;
    F32 offset;
    Mask zero;

    I32 level(F32 x, int nmax) const {
        const I32 l = clamp(nearest_int(inverse * (x - offset)), 0, nmax);
        return select(zero, I32(0), l);
    }
};

// The range of candidate scales: (rmin + rdelta * is + nmax) / (max - min), is = 0..nstep.
struct ScaleSteps {
    float rmin;
    float rdelta;
    int nstep;
};

template <bool UseMad>
inline F32 deviation(F32 diff) {
    return UseMad ? abs(diff) : diff * diff;
}

// One candidate's levels and its weighted sums over them.
template <int Length>
struct LevelSums {
    F32 l, l2, xl;
    float levels[Length * kLanes];

    template <bool InRange>
    void run(const float* x, const float* w, F32 inverse, F32 offset, int nmax) {
        // Local sums: the stores to levels could alias members, and would keep them in memory.
        F32 sum_l = 0.0f, sum_l2 = 0.0f, sum_xl = 0.0f;
        const float top = static_cast<float>(nmax);
        APEX_UNROLL
        for (int i = 0; i < Length; ++i) {
            const F32 xi = load(x + i * kLanes);
            const F32 wi = load(w + i * kLanes);
            const F32 t = inverse * (xi - offset);
            const F32 level = InRange ? nearest_clamped_in_range(t, 0.0f, top)
                                      : to_float(clamp(nearest_int(t), 0, nmax));
            store(levels + i * kLanes, level);
            const F32 wl = wi * level;
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * level;
            sum_xl = sum_xl + wl * xi;
        }
        l = sum_l;
        l2 = sum_l2;
        xl = sum_xl;
    }

    template <bool UseMad>
    F32 error(const float* x, const float* w, F32 scale, F32 min_value) const {
        F32 sum = 0.0f;
        APEX_UNROLL
        for (int i = 0; i < Length; ++i) {
            const F32 diff = scale * load(levels + i * kLanes) + min_value - load(x + i * kLanes);
            sum = sum + load(w + i * kLanes) * deviation<UseMad>(diff);
        }
        return sum;
    }
};

// x, w: Length values of kLanes lanes. UseMad: absolute instead of squared error.
template <int Length, bool UseMad>
inline ScaleMin search_scale_min(const float* x, const float* w, int nmax, ScaleSteps steps) {
    F32 min_value = load(x);
    F32 max_value = min_value;
    F32 sum_w = load(w);
    F32 sum_x = sum_w * min_value;
    APEX_UNROLL
    for (int i = 1; i < Length; ++i) {
        const F32 xi = load(x + i * kLanes);
        const F32 wi = load(w + i * kLanes);
        min_value = min(xi, min_value);
        max_value = max(xi, max_value);
        sum_w = sum_w + wi;
        sum_x = sum_x + wi * xi;
    }
    const F32 lowest = min_value;
    min_value = select(min_value > F32(0.0f), F32(0.0f), min_value);
    const Mask active = max_value > min_value;

    // A value's rounding argument inverse * (x - offset) is monotonic in x, also after rounding.
    // So if the arguments of the smallest and the largest x are in range, all are.
    const auto in_range = [&](F32 inverse, F32 offset) {
        const F32 limit = 4194304.0f;  // 2^22
        const Mask ok = (abs(inverse * (lowest - offset)) <= limit) &
                        (abs(inverse * (max_value - offset)) <= limit);
        return !any(active & ~ok);
    };

    ScaleMin best;
    best.zero = ~active;
    best.inverse = F32(static_cast<float>(nmax)) / (max_value - min_value);
    best.scale = F32(1.0f) / best.inverse;
    best.offset = min_value;

    LevelSums<Length> sums;
    if (in_range(best.inverse, min_value)) {
        sums.template run<true>(x, w, best.inverse, min_value, nmax);
    } else {
        sums.template run<false>(x, w, best.inverse, min_value, nmax);
    }
    F32 best_error = sums.template error<UseMad>(x, w, best.scale, min_value);

    for (int is = 0; is <= steps.nstep; ++is) {
        // The best minimum so far also shifts the next candidates, as in ggml.
        const F32 numerator = steps.rmin + steps.rdelta * is + nmax;
        const F32 inverse = numerator / (max_value - min_value);
        if (in_range(inverse, min_value)) {
            sums.template run<true>(x, w, inverse, min_value, nmax);
        } else {
            sums.template run<false>(x, w, inverse, min_value, nmax);
        }
        const F32 determinant = sum_w * sums.l2 - sums.l * sums.l;
        const Mask solvable = active & (determinant > F32(0.0f));
        if (!any(solvable)) continue;
        F32 this_scale = (sum_w * sums.xl - sum_x * sums.l) / determinant;
        F32 this_min = (sums.l2 * sum_x - sums.l * sums.xl) / determinant;
        const Mask positive = this_min > F32(0.0f);
        if (any(positive)) {
            this_min = select(positive, F32(0.0f), this_min);
            this_scale = select(positive, sums.xl / sums.l2, this_scale);
        }
        const F32 error = sums.template error<UseMad>(x, w, this_scale, this_min);
        const Mask better = solvable & (error < best_error);
        if (!any(better)) continue;
        best_error = select(better, error, best_error);
        best.scale = select(better, this_scale, best.scale);
        best.inverse = select(better, inverse, best.inverse);
        best.offset = select(better, min_value, best.offset);
        min_value = select(better, this_min, min_value);
    }
    best.scale = select(active, best.scale, F32(0.0f));
    best.the_min = negate(min_value);
    return best;
}

}  // namespace apex::kernels::APEX_ISA
