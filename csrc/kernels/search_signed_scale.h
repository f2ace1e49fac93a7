// One scale for values quantized to -nmax..nmax-1: the twin of make_qx_quants with rmse_type 1.
#pragma once

#include "superblocks.h"

namespace apex::kernels::APEX_ISA {

struct SignedScale {
    F32 scale;
    F32 inverse;  // the levels are clamp(nearest_int(inverse * x)) + nmax
    Mask zero;    // all levels are 0, not nmax

    I32 level(F32 x, int nmax) const {
        const I32 l = clamp(nearest_int(inverse * x), -nmax, nmax - 1) + I32(nmax);
        return select(zero, I32(0), l);
    }
};

// The value of largest magnitude, the first of equals.
template <int Length>
inline F32 largest_magnitude(const float* x, F32* magnitude) {
    F32 amax = 0.0f;
    F32 value = 0.0f;
    for (int i = 0; i < Length; ++i) {
        const F32 xi = load(x + i * kLanes);
        const F32 ax = abs(xi);
        const Mask larger = ax > amax;
        amax = select(larger, ax, amax);
        value = select(larger, xi, value);
    }
    *magnitude = amax;
    return value;
}

// x, w: Length values of kLanes lanes. wx: room for Length more.
template <int Length>
inline SignedScale search_signed_scale(const float* x, const float* w, int nmax, float* wx) {
    const F32 zero = 0.0f;
    const float low = static_cast<float>(-nmax);
    const float high = static_cast<float>(nmax - 1);
    F32 amax;
    const F32 largest = largest_magnitude<Length>(x, &amax);
    SignedScale best;
    best.zero = amax < F32(1e-15f);  // GROUP_MAX_EPS
    best.inverse = F32(low) / largest;
    for (int i = 0; i < Length; ++i) {
        store(wx + i * kLanes, load(w + i * kLanes) * load(x + i * kLanes));
    }

    F32 sumlx, suml2;
    // Where the group is not zero, |inverse| <= (nmax + 0.9) / amax is finite and
    // |inverse * x| <= nmax + 1, so the short form of rounding holds.
    const auto sums = [&](F32 inverse) {
        F32 lx = zero, l2 = zero;
        for (int i = 0; i < Length; ++i) {
            const F32 l = nearest_clamped_in_range(inverse * load(x + i * kLanes), low, high);
            lx = lx + load(wx + i * kLanes) * l;
            l2 = l2 + load(w + i * kLanes) * l * l;
        }
        sumlx = lx;
        suml2 = l2;
    };
    sums(best.inverse);
    best.scale = select(suml2 != zero, sumlx / suml2, zero);
    F32 best_score = best.scale * sumlx;
    for (int is = -9; is <= 9; ++is) {
        if (is == 0) continue;
        const F32 inverse = F32(-(nmax + 0.1f * is)) / largest;
        sums(inverse);
        const Mask better = (suml2 > zero) & (sumlx * sumlx > best_score * suml2);
        if (!any(better)) continue;
        const F32 scale = sumlx / suml2;
        best.scale = select(better, scale, best.scale);
        best_score = select(better, scale * sumlx, best_score);
        best.inverse = select(better, inverse, best.inverse);
    }
    best.scale = select(best.zero, zero, best.scale);
    return best;
}

}  // namespace apex::kernels::APEX_ISA
