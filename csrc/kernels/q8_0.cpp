// Q8_0: blocks of 32 weights with one scale; the matrix is not used.
// Scalar twin: quantize_row_q8_0_ref. The only reduction is a maximum, which no order changes, so
// here the lanes are neighbouring weights of one block.
#include <cfloat>

#include "families.h"
#include "ggml_blocks.h"

namespace apex::kernels::APEX_ISA {

namespace {

// roundf: halves away from zero. x - truncate(x) is exact.
F32 round_half_away(F32 x) {
    const F32 whole = truncate(x);
    const F32 rest = x - whole;
    const F32 one = 1.0f;
    const F32 up = select(rest >= F32(0.5f), whole + one, whole);
    return select(rest <= F32(-0.5f), whole - one, up);
}

#if defined(__aarch64__)

ggml_half half_of(float x) {
    return half_bits(x);
}

// ggml then converts infinities to integers: what that gives is its compiler's choice. On ARM it
// saturates; to_int_truncated gives x86's zeros.
void store_levels(const F32* v, float inverse, int8_t* levels) {
    if (inverse > FLT_MAX) {
        for (int i = 0; i < QK8_0 / kLanes; ++i) {
            const I32 q = to_int_truncated(round_half_away(v[i] * F32(inverse)));
            store_low_bytes(levels + i * kLanes, q);
        }
        return;
    }
    for (int i = 0; i < QK8_0 / kLanes; i += 2) {
        store_low_bytes(levels + i * kLanes, to_int_half_away(v[i] * F32(inverse)),
                        to_int_half_away(v[i + 1] * F32(inverse)));
    }
}

#else

ggml_half half_of(float x) {
    alignas(64) int32_t half[kLanes];
    store(half, to_half(F32(x)));
    return static_cast<ggml_half>(half[0]);
}

void store_levels(const F32* v, float inverse, int8_t* levels) {
    // ggml then converts infinities to integers, and its own function is asked what that gives.
    if (inverse > FLT_MAX) throw_undefined_in_ggml();
    for (int i = 0; i < QK8_0 / kLanes; ++i) {
        const I32 q = to_int_truncated(round_half_away(v[i] * F32(inverse)));
        store_low_bytes(levels + i * kLanes, q);
    }
}

#endif

void quantize_block(const float* x, block_q8_0* out) {
    constexpr int kVectors = QK8_0 / kLanes;
    F32 v[kVectors];
    F32 magnitude = 0.0f;
    for (int i = 0; i < kVectors; ++i) {
        v[i] = load(x + i * kLanes);
        magnitude = max_of_numbers(magnitude, abs(v[i]));
    }
    const float d = largest_lane(magnitude) / 127;
    const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
    out->d = half_of(d);
    store_levels(v, inverse, out->qs);
}

void quantize(const float* src, void* dst, int64_t nrows, int64_t n_per_row, const float*) {
    const int64_t blocks = nrows * n_per_row / QK8_0;
    auto* out = static_cast<block_q8_0*>(dst);
    for (int64_t i = 0; i < blocks; ++i) quantize_block(src + i * QK8_0, out + i);
}

}  // namespace

QuantizeRows q8_0(bool /*with_imatrix*/) {
    return quantize;
}

}  // namespace apex::kernels::APEX_ISA
