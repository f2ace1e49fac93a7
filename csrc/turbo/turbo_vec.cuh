// The cache types in ggml's attention kernel for one query, which reads the cache as it is
// (fattn-vec.cuh, which is included after this): products of keys with a query in Q8_1, and values
// as floats, four at a time.
#pragma once

#include "decode.cuh"
#include "fattn-common.cuh"

namespace apex::turbo {

// A row of D keys by a query of which thread t holds fours t, t + n_threads ...
template <class Format, int D, int n_threads>
__device__ __forceinline__ float key_dot(const char* __restrict__ keys, const void* __restrict__,
                                         const int* __restrict__ query,
                                         const void* __restrict__ query_scales) {
    const auto* blocks = reinterpret_cast<const typename Format::Block*>(keys);
    const auto* scales = static_cast<const float2*>(query_scales);
    float sum = 0.0f;
#pragma unroll
    for (int first = 0; first < D / 4; first += n_threads) {
        const unsigned four = first + threadIdx.x % n_threads;
        const auto& block = blocks[four / (QK_TURBO / 4)];
        const int levels = four_levels<Format>(block, four % (QK_TURBO / 4));
        const int products = ggml_cuda_dp4a(levels, query[first / n_threads], 0);
        sum += scale_of<Format>(block) * scales[first / n_threads].x * products;
    }
    return sum;
}

// Values i0 to i0 + 3 of a row. scale * (32768 + level + 128) - scale * 32896 is scale * level to
// the last bit: the second product is exact (11 bits by 9), and so is the whole before it is
// rounded.
template <class Format>
__device__ __forceinline__ void four_values(const void* __restrict__ values, void* __restrict__ out,
                                            const int64_t i0) {
    const auto first = static_cast<unsigned>(i0);
    const auto& block = static_cast<const typename Format::Block*>(values)[first / QK_TURBO];
    const uint32_t four = four_bytes<Format, 128>(block, first % QK_TURBO / 4);
    const float scale = scale_of<Format>(block);
    const float less = scale * -32896.0f;
    auto* value = static_cast<float*>(out);
    value[0] = __fmaf_rn(scale, above_32768<0>(four), less);
    value[1] = __fmaf_rn(scale, above_32768<1>(four), less);
    value[2] = __fmaf_rn(scale, above_32768<2>(four), less);
    value[3] = __fmaf_rn(scale, above_32768<3>(four), less);
}

}  // namespace apex::turbo

#define APEX_TURBO_KEYS(type, D, n_threads)                                                   \
    template <>                                                                               \
    constexpr __device__ vec_dot_KQ_t get_vec_dot_KQ<GGML_TYPE_TURBO##type, D, n_threads>() { \
        return apex::turbo::key_dot<apex::turbo::Turbo##type, D, n_threads>;                  \
    }
#define APEX_TURBO_TYPE(type)                                                                 \
    APEX_TURBO_KEYS(type, 64, 16)                                                             \
    APEX_TURBO_KEYS(type, 128, 32)                                                            \
    APEX_TURBO_KEYS(type, 256, 32)                                                            \
    template <>                                                                               \
    constexpr __device__ dequantize_V_t get_dequantize_V<GGML_TYPE_TURBO##type, float, 4>() { \
        return apex::turbo::four_values<apex::turbo::Turbo##type>;                            \
    }
APEX_TURBO_TYPE(2)
APEX_TURBO_TYPE(3)
APEX_TURBO_TYPE(4)
