// Values to blocks. Sums have one order, 32 lanes and then halves of them, which is also that of a
// warp (encode.cuh): the bytes do not depend on where they are made.
#include <cmath>
#include <limits>

#include "format.h"

#if defined(__GNUC__)
#define TURBO_INLINE inline __attribute__((always_inline))
#else
#define TURBO_INLINE inline
#endif
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__)
#define TURBO_CLONES __attribute__((target_clones("default", "avx2")))
#else
#define TURBO_CLONES
#endif

namespace apex::turbo {
namespace {

constexpr int kLanes = 32;
constexpr float kSteps[TURBO_N_STEPS] = {TURBO_STEPS};

TURBO_INLINE float sum_lanes(float* lanes) {
    for (int n = kLanes / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; ++i) lanes[i] += lanes[i + n];
    }
    return lanes[0];
}

TURBO_INLINE float dot(const float* a, const float* b) {
    float lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) lanes[i] = a[i] * b[i] + a[i + kLanes] * b[i + kLanes];
    return sum_lanes(lanes);
}

// Levels of the magnitudes y * step.
template <class Format>
TURBO_INLINE void nearest_levels(const float* y, float step, float* levels) {
    for (int i = 0; i < QK_TURBO; ++i) {
        const float value = y[i] * step;
        float found = Format::kLevels[0];
        for (int end = 0; end < kHalf<Format> - 1; ++end) {
            found =
                value > Format::kEnds[end] ? static_cast<float>(Format::kLevels[end + 1]) : found;
        }
        levels[i] = found;
    }
}

// So many bits of each index, from `shift` on, into words of as many groups of four as fit.
TURBO_INLINE void pack_words(const uint8_t* index, int shift, int n_bits, uint8_t* out) {
    const int n_groups = 4 / n_bits;
    const int mask = (1 << n_bits) - 1;
    for (int word = 0; word < QK_TURBO / 4 / n_groups; ++word) {
        int bits = 0;
        for (int i = 0; i < 4 * n_groups; ++i) {
            const int part = index[4 * n_groups * word + i] >> shift & mask;
            bits |= part << (4 * (i % 4) + n_bits * (i / 4));
        }
        out[2 * word] = static_cast<uint8_t>(bits & 255);
        out[2 * word + 1] = static_cast<uint8_t>(bits >> 8);
    }
}

TURBO_INLINE void pack(const uint8_t* index, block_turbo2* out) {
    pack_words(index, 0, 2, out->qs);
}

TURBO_INLINE void pack(const uint8_t* index, block_turbo3* out) {
    pack_words(index, 0, 2, out->qs);
    pack_words(index, 2, 1, out->qh);
}

TURBO_INLINE void pack(const uint8_t* index, block_turbo4* out) {
    pack_words(index, 0, 4, out->qs);
}

// The step whose levels point most nearly where the values point, and those levels.
template <class Format>
TURBO_INLINE void search(const float* y, float* best) {
    float best_score = -1.0f;
    for (int step = 0; step < TURBO_N_STEPS; ++step) {
        float levels[QK_TURBO];
        nearest_levels<Format>(y, kSteps[step], levels);
        const float yq = dot(y, levels);
        const float score = yq * yq / dot(levels, levels);
        if (score > best_score) {
            best_score = score;
            for (int i = 0; i < QK_TURBO; ++i) best[i] = levels[i];
        }
    }
}

template <class Format>
TURBO_INLINE void encode_block(const float* x, typename Format::Block* out) {
    constexpr int half = kHalf<Format>;
    float y[QK_TURBO], levels[QK_TURBO];
    for (int i = 0; i < QK_TURBO; ++i) y[i] = std::fabs(x[i]);
    const float xx = dot(y, y);
    const bool usable = xx > 0.0f && xx <= std::numeric_limits<float>::max();
    const float inverse = usable ? Format::kSigma / std::sqrt(xx / QK_TURBO) : 0.0f;
    for (int i = 0; i < QK_TURBO; ++i) {
        y[i] = y[i] * inverse;
        levels[i] = Format::kLevels[0];
    }
    float scale = xx;  // 0, or what is not finite
    if (usable) {
        search<Format>(y, levels);
        // The norm is kept: blocks that decode too short or too long shift the attention's output.
        scale = std::fmin(std::sqrt(xx / dot(levels, levels)), 65504.0f);
    }
    uint8_t index[QK_TURBO];
    for (int i = 0; i < QK_TURBO; ++i) {
        int magnitude = 0;
        for (int j = 1; j < half; ++j) magnitude += levels[i] >= Format::kLevels[j];
        index[i] = static_cast<uint8_t>(x[i] < 0.0f ? half - 1 - magnitude : half + magnitude);
    }
    out->d = ggml_fp32_to_fp16(scale);
    pack(index, out);
}

template <class Format>
TURBO_INLINE void encode(const float* x, void* y, int64_t k) {
    auto* out = static_cast<typename Format::Block*>(y);
    for (int64_t i = 0; i < k / QK_TURBO; ++i) encode_block<Format>(x + i * QK_TURBO, out + i);
}

}  // namespace
}  // namespace apex::turbo

extern "C" {

TURBO_CLONES void turbo2_encode(const float* x, void* y, int64_t k) {
    apex::turbo::encode<apex::turbo::Turbo2>(x, y, k);
}

TURBO_CLONES void turbo3_encode(const float* x, void* y, int64_t k) {
    apex::turbo::encode<apex::turbo::Turbo3>(x, y, k);
}

TURBO_CLONES void turbo4_encode(const float* x, void* y, int64_t k) {
    apex::turbo::encode<apex::turbo::Turbo4>(x, y, k);
}

}  // extern "C"
