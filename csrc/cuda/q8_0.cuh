// Q8_0: blocks of 32 weights with one scale; the matrix is not used.
// Scalar twin: quantize_row_q8_0_ref.
#pragma once

#include "cuda/super_block.cuh"

namespace apex::cuda {

template <bool>
struct Q8_0 {
    using Block = block_q8_0;
    static constexpr int kSubBlocks = 1;
    static constexpr int kLength = 32;
    static constexpr int kLaneFloats = 0;
    static constexpr bool kSums = false;
    static constexpr bool kFits = false;
    static constexpr bool kCodebook = false;

    struct Thread {
        float x[kLength];
        bool overflow;
    };
    struct Scratch {
        float inverse;
        uint16_t d;
        int8_t levels[kLength];
    };

    template <typename Lane>
    APEX_HD static void find(Thread& t, int, const float*, float, Lane, const Tables&, Scratch& s) {
        float magnitude;
        largest_magnitude(t.x, &magnitude);
        const float d = magnitude / 127;
        s.inverse = d != 0.0f ? 1.0f / d : 0.0f;
        s.d = half_of(d);
        // ggml then converts infinities to integers: what that gives is its compiler's choice.
        t.overflow = s.inverse > FLT_MAX;
    }

    APEX_HD static void combine(Thread&, int, Scratch&) {}

    APEX_HD static void choose(Thread& t, int, FitSums, const Tables&, Scratch& s) {
        if (t.overflow) return;
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            s.levels[i] = static_cast<int8_t>(roundf(t.x[i] * s.inverse));
        }
    }

    APEX_HD static void pack(int, const Scratch& s, const Tables&, Block* out) {
        out->d = s.d;
        for (int i = 0; i < kLength; ++i) out->qs[i] = s.levels[i];
    }
};

}  // namespace apex::cuda
