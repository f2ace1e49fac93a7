// The arithmetic of kernels/softmax.h for a GPU, entry by entry: twin_vs_softmax compares it with
// the CPU's loops, bit for bit.
#pragma once

#include "cuda/portable.cuh"
#include "kernels/softmax_lanes.h"
#include "scoring/softmax_sums.h"

namespace apex::cuda {

using kernels::kSoftmaxLanes;

inline constexpr double kNoFloor = -HUGE_VAL;

APEX_HD double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

APEX_HD uint64_t bits_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

// exp(x) for x <= 0; the constants are explained in kernels/softmax_loops.cpp.
APEX_HD double exp_not_above_one(double x) {
    x = x < -700.0 ? -700.0 : x;
    const double shifted = x * 0x1.71547652b82fep0 + 0x1.8p52;
    const double k = shifted - 0x1.8p52;
    const double r = (x - k * 0x1.62e42fefa0000p-1) - k * 0x1.cf79abc9e3b39p-40;
    double p = r * (1.0 / 39916800) + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    return p * double_of((bits_of(shifted) << 52) + (uint64_t{1023} << 52));
}

APEX_HD bool is_finite_logit(float x) {
    return (bits_of(x) & 0x7f800000) != 0x7f800000;
}

// The largest entry and the first place where it stands.
struct Top {
    float value;
    int32_t token;
};

inline constexpr int32_t kNoToken = INT32_MAX;

APEX_HD Top no_top() {
    return {kNoLogit, kNoToken};
}

// NaN is never larger. Entries may come in any order.
APEX_HD Top better(Top a, Top b) {
    const bool takes_b = b.value > a.value || (b.value == a.value && b.token < a.token);
    return takes_b ? b : a;
}

// What one entry adds to the lanes of a position.
struct Terms {
    double weight;      // of the reference
    double difference;  // that, times (reference - candidate)
    double mass;        // of the candidate
};

// What is the same for all entries of a position.
struct Position {
    const float* reference;  // null: the candidate alone
    const float* candidate;  // null: the reference alone
    double reference_max;
    double candidate_max;
    double floor;  // of the reference's entries that count
};

APEX_HD Terms terms_of(const Position& position, int64_t i, int64_t n_vocab) {
    Terms terms = {0.0, 0.0, 0.0};
    double x = 0.0, y = 0.0;
    if (position.reference != nullptr) {
        x = i < n_vocab ? position.reference[i] : kNoLogit;
        const double weight = exp_not_above_one(x - position.reference_max);
        terms.weight = x > position.floor ? weight : 0.0;
    }
    if (position.candidate != nullptr) {
        y = i < n_vocab ? position.candidate[i] : kNoLogit;
        terms.mass = exp_not_above_one(y - position.candidate_max);
        if (position.reference != nullptr) terms.difference = terms.weight * (x - y);
    }
    return terms;
}

template <typename Lanes>
APEX_HD double add_lanes(const Lanes& lanes) {
    double eight[8];
    APEX_UNROLL
    for (int i = 0; i < 8; ++i) eight[i] = lanes[i] + lanes[i + 8];
    return ((eight[0] + eight[4]) + (eight[2] + eight[6])) +
           ((eight[1] + eight[5]) + (eight[3] + eight[7]));
}

}  // namespace apex::cuda
