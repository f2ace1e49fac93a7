// Logits whose scores a GPU must get right to the bit: for its twin on the CPU and for the GPU.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <random>

#include "scoring/softmax.h"

namespace apex::tests {

inline bool same_bits(double a, double b) {
    return std::memcmp(&a, &b, sizeof(a)) == 0;
}

inline bool same(const SoftmaxScore& a, const SoftmaxScore& b) {
    if (a.is_finite != b.is_finite || a.top != b.top) return false;
    if (!a.is_finite) return true;
    return same_bits(a.nll, b.nll) && same_bits(a.kld, b.kld) &&
           same_bits(a.top_probability, b.top_probability);
}

struct ScoreCase {
    const char* name;
    float spread;      // of the logits
    float difference;  // of the candidate
    bool is_coded;
    float spoiled;  // a value put into some candidates, 0: none
};

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr ScoreCase kScoreCases[] = {{"usual", 3.0f, 0.1f, false, 0},
                                            {"equal", 3.0f, 0.0f, false, 0},
                                            {"flat", 0.0f, 0.5f, false, 0},
                                            {"steep", 300.0f, 20.0f, false, 0},
                                            {"coded", 4.0f, 0.1f, true, 0},
                                            {"nan", 3.0f, 0.1f, false, kNan},
                                            {"infinite", 3.0f, 0.1f, false, kInfinity},
                                            {"minus", 3.0f, 0.1f, false, -kInfinity}};

// n_vocab logits of a reference and of a candidate.
inline void make_rows(const ScoreCase& test, int64_t n_vocab, std::mt19937_64& random,
                      float* reference, float* candidate) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < n_vocab; ++i) {
        reference[i] = test.spread * normal(random) - (test.is_coded ? 12.0f : 0.0f);
        candidate[i] = reference[i] + test.difference * normal(random);
    }
    if (test.spoiled != 0) {
        candidate[random() % static_cast<uint64_t>(n_vocab)] = test.spoiled;
    }
}

}  // namespace apex::tests
