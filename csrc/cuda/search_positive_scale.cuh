// One scale for values quantized to 0..nmax: the twin of make_qp_quants.
#pragma once

#include "cuda/portable.cuh"

namespace apex::cuda {

// The levels of the search, as the bytes ggml keeps them in: negative ones wrap.
template <int N>
struct PositiveScale {
    float scale;
    int32_t levels[N];
};

template <int N, typename X, typename W>
APEX_HD float best_positive_inverse(const X& x, const W& w, int nmax, float largest) {
    float inverse = nmax / largest;
    const float first_scale = 1.0f / inverse;
    float best_mse = 0.0f;
    APEX_UNROLL
    for (int i = 0; i < N; ++i) {
        const int32_t l = nearest_int(inverse * x[i]) & 0xff;
        const float diff = x[i] - first_scale * l;
        best_mse += w[i] * diff * diff;
    }
    APEX_ROLLED
    for (int is = -4; is <= 4; ++is) {
        if (is == 0) continue;
        const float this_inverse = (0.1f * is + nmax) / largest;
        const float this_scale = 1.0f / this_inverse;
        float mse = 0.0f;
        APEX_UNROLL
        for (int i = 0; i < N; ++i) {
            const int32_t rounded = nearest_int(this_inverse * x[i]);
            const int32_t l = rounded < nmax ? rounded : nmax;
            const float diff = x[i] - this_scale * l;
            mse += w[i] * diff * diff;
        }
        if (mse < best_mse) {
            best_mse = mse;
            inverse = this_inverse;
        }
    }
    return inverse;
}

// One pass of coordinate descent; false if it changed nothing.
template <int N, typename X, typename W>
APEX_HD bool descend_positive(const X& x, const W& w, int nmax, int32_t (&levels)[N], float* sumlx,
                              float* suml2) {
    bool changed = false;
    APEX_UNROLL
    for (int i = 0; i < N; ++i) {
        const float wx = w[i] * x[i];
        const auto old_l = static_cast<float>(levels[i]);
        float slx = *sumlx - wx * old_l;
        float sl2 = *suml2 - w[i] * old_l * old_l;
        if (!(slx > 0.0f && sl2 > 0.0f)) continue;
        const int32_t rounded = nearest_int(x[i] * sl2 / slx);
        const int32_t l = rounded < nmax ? rounded : nmax;
        if (l == levels[i]) continue;
        const auto new_l = static_cast<float>(l);
        slx += wx * new_l;
        sl2 += w[i] * new_l * new_l;
        if (slx * slx * *suml2 > *sumlx * *sumlx * sl2) {
            levels[i] = l & 0xff;
            *sumlx = slx;
            *suml2 = sl2;
            changed = true;
        }
    }
    return changed;
}

// x, w: N values each, arrays or what indexes like them.
template <int N, typename X, typename W>
APEX_HD PositiveScale<N> search_positive_scale(const X& x, const W& w, int nmax) {
    PositiveScale<N> found{};
    float largest = 0.0f;
    APEX_UNROLL
    for (int i = 0; i < N; ++i) largest = x[i] > largest ? x[i] : largest;
    if (largest < kGroupMaxEps) return found;
    const float inverse = best_positive_inverse<N>(x, w, nmax, largest);
    float sumlx = 0.0f, suml2 = 0.0f;
    APEX_UNROLL
    for (int i = 0; i < N; ++i) {
        const int32_t rounded = nearest_int(inverse * x[i]);
        const int32_t l = rounded < nmax ? rounded : nmax;
        const auto level = static_cast<float>(l);
        found.levels[i] = l & 0xff;
        sumlx += w[i] * x[i] * level;
        suml2 += w[i] * level * level;
    }
    APEX_ROLLED
    for (int pass = 0; pass < 5; ++pass) {
        if (!descend_positive<N>(x, w, nmax, found.levels, &sumlx, &suml2)) break;
    }
    found.scale = suml2 > 0.0f ? sumlx / suml2 : 0.0f;
    return found;
}

}  // namespace apex::cuda
