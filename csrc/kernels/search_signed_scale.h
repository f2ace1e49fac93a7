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
    APEX_UNROLL
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

// Which ends the levels of a candidate can pass: with an inverse of (nmax + 0.1 is) / amax they lie
// within +-(nmax - 1) up to is = -6 and within +-nmax up to is = 4.
enum class PassedEnds { none, top, both };

template <PassedEnds Ends>
struct OfCandidates {
    static constexpr PassedEnds kEnds = Ends;
};

// The nearest integer in float, kept from passing those ends. Where the group is not zero,
// |inverse| <= (nmax + 0.9) / amax is finite and |inverse * x| <= nmax + 1, so the short form of
// rounding holds.
template <PassedEnds Ends>
inline F32 signed_level(F32 t, int nmax) {
    const auto low = static_cast<float>(-nmax), high = static_cast<float>(nmax - 1);
    if constexpr (Ends == PassedEnds::both) return nearest_clamped_in_range(t, low, high);
    if constexpr (Ends == PassedEnds::top) return nearest_up_to_in_range(t, high);
    return nearest_in_range(t);
}

// Weighted sums over levels l: of x l and of l^2.
struct LevelProducts {
    F32 lx = 0.0f, l2 = 0.0f;

    // One value's share; wx is its product with its weight.
    void add(F32 l, F32 w, F32 wx) {
        lx = lx + wx * l;
        l2 = l2 + w * l * l;
    }
};

// The sums of two candidates, which read the values once. wx: products of x and w.
template <PassedEnds Ends, int Length>
[[gnu::always_inline]] inline void sum_two(const float* x, const float* w, const float* wx,
                                           int nmax, F32 one, F32 other, LevelProducts* of_one,
                                           LevelProducts* of_other) {
    LevelProducts first, second;
    APEX_UNROLL
    for (int i = 0; i < Length; ++i) {
        const int at = i * kLanes;
        const F32 xi = load(x + at), wi = load(w + at), wxi = load(wx + at);
        first.add(signed_level<Ends>(one * xi, nmax), wi, wxi);
        second.add(signed_level<Ends>(other * xi, nmax), wi, wxi);
    }
    *of_one = first;
    *of_other = second;
}

// x, w: Length values of kLanes lanes. wx: room for Length more.
template <int Length>
inline SignedScale search_signed_scale(const float* x, const float* w, int nmax, float* wx) {
    const F32 zero = 0.0f;
    F32 amax;
    const F32 largest = largest_magnitude<Length>(x, &amax);
    SignedScale best;
    F32 best_score;
    best.zero = amax < F32(1e-15f);  // GROUP_MAX_EPS
    best.inverse = F32(static_cast<float>(-nmax)) / largest;
    APEX_UNROLL
    for (int i = 0; i < Length; ++i) {
        store(wx + i * kLanes, load(w + i * kLanes) * load(x + i * kLanes));
    }

    const auto inverse_of = [&](int is) { return F32(-(nmax + 0.1f * is)) / largest; };
    const auto offer = [&](F32 inverse, LevelProducts sums) {
        const Mask better = (sums.l2 > zero) & (sums.lx * sums.lx > best_score * sums.l2);
        if (!any(better)) return;
        const F32 scale = sums.lx / sums.l2;
        best.scale = select(better, scale, best.scale);
        best_score = select(better, scale * sums.lx, best_score);
        best.inverse = select(better, inverse, best.inverse);
    };
    LevelProducts first;
    APEX_UNROLL
    for (int i = 0; i < Length; ++i) {
        const int at = i * kLanes;
        const F32 l = signed_level<PassedEnds::top>(best.inverse * load(x + at), nmax);
        first.add(l, load(w + at), load(wx + at));
    }
    best.scale = select(first.l2 != zero, first.lx / first.l2, zero);
    best_score = best.scale * first.lx;
    // -9..9 without 0, which was first; two at a time are summed up, and judged in turn.
    const auto step = [](int n) { return n < 9 ? n - 9 : n - 8; };
    const auto try_candidates = [&](auto candidates, int begin, int end) {
        for (int n = begin; n < end; n += 2) {
            const F32 one = inverse_of(step(n)), other = inverse_of(step(n + 1));
            LevelProducts of_one, of_other;
            sum_two<decltype(candidates)::kEnds, Length>(x, w, wx, nmax, one, other, &of_one,
                                                         &of_other);
            offer(one, of_one);
            offer(other, of_other);
        }
    };
    try_candidates(OfCandidates<PassedEnds::none>(), 0, 4);    // -9..-6
    try_candidates(OfCandidates<PassedEnds::top>(), 4, 12);    // -5..3
    try_candidates(OfCandidates<PassedEnds::both>(), 12, 18);  // 4..9
    best.scale = select(best.zero, zero, best.scale);
    return best;
}

}  // namespace apex::kernels::APEX_ISA
