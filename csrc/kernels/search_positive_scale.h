// One scale for values quantized to 0..nmax: the twin of make_qp_quants.
#pragma once

#include "superblocks.h"

namespace apex::kernels::APEX_ISA {

inline constexpr float kGroupMaxEps = 1e-15f;  // GROUP_MAX_EPS in ggml-quants.c

// x, w: Length values of kLanes lanes. levels: Length uint8 levels, one per int32 lane; negative
// values wrap to a byte as ggml's do. Returns the scale.
template <int Length>
inline F32 search_positive_scale(const float* x, const float* w, int nmax, int32_t* levels) {
    const I32 byte = 0xff;
    const I32 top = nmax;
    const F32 zero = 0.0f;
    F32 largest = zero;
    for (int i = 0; i < Length; ++i) largest = max(largest, load(x + i * kLanes));
    const Mask active = ~(largest < F32(kGroupMaxEps));

    F32 inverse = F32(static_cast<float>(nmax)) / largest;
    const F32 first_scale = F32(1.0f) / inverse;
    F32 best_mse = zero;
    for (int i = 0; i < Length; ++i) {
        const F32 xi = load(x + i * kLanes);
        const I32 l = nearest_int(inverse * xi) & byte;
        const F32 diff = xi - first_scale * to_float(l);
        best_mse = best_mse + load(w + i * kLanes) * diff * diff;
    }
    for (int is = -4; is <= 4; ++is) {
        if (is == 0) continue;
        const F32 this_inverse = F32(0.1f * is + nmax) / largest;
        const F32 this_scale = F32(1.0f) / this_inverse;
        F32 mse = zero;
        for (int i = 0; i < Length; ++i) {
            const F32 xi = load(x + i * kLanes);
            const I32 l = min(top, nearest_int(this_inverse * xi));
            const F32 diff = xi - this_scale * to_float(l);
            mse = mse + load(w + i * kLanes) * diff * diff;
        }
        const Mask better = mse < best_mse;
        best_mse = select(better, mse, best_mse);
        inverse = select(better, this_inverse, inverse);
    }

    F32 sumlx = zero;
    F32 suml2 = zero;
    for (int i = 0; i < Length; ++i) {
        const F32 xi = load(x + i * kLanes);
        const F32 wi = load(w + i * kLanes);
        const I32 l = min(top, nearest_int(inverse * xi));
        const F32 lf = to_float(l);
        store(levels + i * kLanes, l & byte);
        sumlx = sumlx + wi * xi * lf;
        suml2 = suml2 + wi * lf * lf;
    }
    // Coordinate descent, at most five passes; a lane stops after a pass that changed nothing.
    Mask running = active;
    for (int pass = 0; pass < 5 && any(running); ++pass) {
        Mask changed = no_lanes();
        for (int i = 0; i < Length; ++i) {
            const F32 xi = load(x + i * kLanes);
            const F32 wi = load(w + i * kLanes);
            const I32 old_l = load(levels + i * kLanes);
            const F32 old_f = to_float(old_l);
            F32 slx = sumlx - wi * xi * old_f;
            F32 sl2 = suml2 - wi * old_f * old_f;
            const I32 new_l = min(top, nearest_int(xi * sl2 / slx));
            const Mask differs = running & (slx > zero) & (sl2 > zero) & (new_l != old_l);
            if (!any(differs)) continue;
            const F32 new_f = to_float(new_l);
            slx = slx + wi * xi * new_f;
            sl2 = sl2 + wi * new_f * new_f;
            const Mask better = differs & (slx * slx * suml2 > sumlx * sumlx * sl2);
            store(levels + i * kLanes, select(better, new_l & byte, old_l));
            sumlx = select(better, slx, sumlx);
            suml2 = select(better, sl2, suml2);
            changed = changed | better;
        }
        running = running & changed;
    }
    for (int i = 0; i < Length; ++i) {
        const I32 l = load(levels + i * kLanes);
        store(levels + i * kLanes, select(active, l, I32(0)));
    }
    const F32 scale = select(suml2 > zero, sumlx / suml2, zero);
    return select(active, scale, zero);
}

}  // namespace apex::kernels::APEX_ISA
