#include "core/convert_rows.h"

#include <cstring>

#include "core/abort_guard.h"
#include "core/simd_clones.h"

namespace apex {
namespace {

APEX_SIMD_CLONES
void widen_bf16(const uint16_t* src, float* dst, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t bits = static_cast<uint32_t>(src[i]) << 16;
        std::memcpy(&dst[i], &bits, sizeof(bits));
    }
}

// Half to float by exponent arithmetic instead of a table, so that the loop vectorises. Exact:
// every half is a float. Normal numbers are rebiased by 112 = 127 - 15; subnormals are an integer
// times 2^-24, computed as a difference of normal floats; exponent 31 (Inf, NaN) becomes 255.
APEX_SIMD_CLONES
void widen_f16(const uint16_t* src, float* dst, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t half = src[i];
        const uint32_t sign = (half & 0x8000u) << 16;
        const uint32_t magnitude = (half & 0x7fffu) << 13;
        const uint32_t exponent = magnitude & 0x0f800000u;
        const uint32_t normal = magnitude + (112u << 23);
        const uint32_t special = magnitude + (224u << 23);
        const uint32_t biased = magnitude + (113u << 23);
        float subnormal;
        std::memcpy(&subnormal, &biased, sizeof(subnormal));
        subnormal -= 6.103515625e-05f;  // 2^-14, what the added exponent stands for
        uint32_t subnormal_bits;
        std::memcpy(&subnormal_bits, &subnormal, sizeof(subnormal));
        const uint32_t finite = exponent == 0 ? subnormal_bits : normal;
        const uint32_t bits = sign | (exponent == 0x0f800000u ? special : finite);
        std::memcpy(&dst[i], &bits, sizeof(bits));
    }
}

}  // namespace

void convert_to_float(ggml_type type, const void* src, float* dst, int64_t n) {
    switch (type) {
        case GGML_TYPE_F32:
            std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
            break;
        case GGML_TYPE_F16:
            widen_f16(static_cast<const uint16_t*>(src), dst, n);
            break;
        case GGML_TYPE_BF16:
            widen_bf16(static_cast<const uint16_t*>(src), dst, n);
            break;
        default:
            guarded([&] { ggml_get_type_traits(type)->to_float(src, dst, n); });
    }
}

}  // namespace apex
