// Signs of groups of eight, stored apart from the magnitudes by the IQ2 and IQ3 types.
#pragma once

#include "superblocks.h"

namespace apex::kernels::APEX_ISA {

// Writes the magnitudes of eight values and returns their signs, one bit each (-0 is positive).
inline I32 split_signs(const float* x, float* magnitudes) {
    I32 signs = 0;
    for (int i = 0; i < 8; ++i) {
        const F32 xi = load(x + i * kLanes);
        const Mask keep = xi >= F32(0.0f);
        store(magnitudes + i * kLanes, select(keep, xi, negate(xi)));
        signs = signs | select(keep, I32(0), I32(1 << i));
    }
    return signs;
}

// As split_signs, for types that store seven bits and make the number of negative signs even:
// where it is odd, the value that matters least, the first with the smallest w x^2, changes sign
// and its magnitude becomes negative.
inline I32 split_even_signs(const float* x, const float* w, float* magnitudes) {
    I32 signs = split_signs(x, magnitudes);
    I32 parity = signs ^ (signs >> 4);
    parity = parity ^ (parity >> 2);
    const Mask odd = ((parity ^ (parity >> 1)) & I32(1)) == I32(1);
    if (!any(odd)) return signs & I32(127);
    const auto importance = [&](int i) {
        const F32 xi = load(x + i * kLanes);
        return load(w + i * kLanes) * xi * xi;
    };
    F32 least = importance(0);
    I32 where = 1;
    for (int i = 1; i < 8; ++i) {
        const F32 value = importance(i);
        const Mask less = value < least;
        least = select(less, value, least);
        where = select(less, I32(1 << i), where);
    }
    where = select(odd, where, I32(0));
    for (int i = 0; i < 8; ++i) {
        const F32 m = load(magnitudes + i * kLanes);
        store(magnitudes + i * kLanes, select(where == I32(1 << i), negate(m), m));
    }
    return (signs ^ where) & I32(127);
}

// The largest of Length values, signs included.
inline F32 largest_value(const float* x, int length) {
    F32 largest = load(x);
    for (int i = 1; i < length; ++i) largest = max(largest, load(x + i * kLanes));
    return largest;
}

}  // namespace apex::kernels::APEX_ISA
