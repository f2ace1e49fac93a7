// One scale for values quantized to -nmax..nmax-1: the twin of make_qx_quants with rmse_type 1.
#pragma once

#include "cuda/portable.cuh"

namespace apex::cuda {

struct SignedScale {
    float scale;
    float inverse;  // the levels are clamp(nearest_int(inverse * x)) + nmax
    bool zero;      // all levels are 0, not nmax

    APEX_HD int32_t level(float x, int32_t nmax) const {
        return zero ? 0 : clamp(nearest_int(inverse * x), -nmax, nmax - 1) + nmax;
    }
};

template <int N>
APEX_HD SignedScale search_signed_scale(const float (&x)[N], const float (&w)[N], int nmax) {
    const auto low = static_cast<float>(-nmax);
    const auto high = static_cast<float>(nmax - 1);
    float amax;
    const float largest = largest_magnitude(x, &amax);
    SignedScale best{0.0f, low / largest, amax < kGroupMaxEps};
    if (best.zero) return best;

    float sumlx, suml2;
    // |inverse| <= (nmax + 0.9) / amax is finite and |inverse * x| <= nmax + 1: in range.
    const auto sums = [&](float inverse) {
        float lx = 0.0f, l2 = 0.0f;
        APEX_UNROLL
        for (int i = 0; i < N; ++i) {
            const float l = nearest_clamped(inverse * x[i], low, high);
            lx += w[i] * x[i] * l;
            l2 += w[i] * l * l;
        }
        sumlx = lx;
        suml2 = l2;
    };
    sums(best.inverse);
    best.scale = suml2 != 0.0f ? sumlx / suml2 : 0.0f;
    float best_score = best.scale * sumlx;
    APEX_ROLLED
    for (int is = -9; is <= 9; ++is) {
        if (is == 0) continue;
        const float inverse = -(nmax + 0.1f * is) / largest;
        sums(inverse);
        if (suml2 > 0.0f && sumlx * sumlx > best_score * suml2) {
            best.scale = sumlx / suml2;
            best_score = best.scale * sumlx;
            best.inverse = inverse;
        }
    }
    return best;
}

}  // namespace apex::cuda
