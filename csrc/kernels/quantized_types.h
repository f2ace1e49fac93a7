// The types that have kernels of ours, on the CPU and on a GPU: the one list of them.
#pragma once

#include <cstdint>

#include "ggml.h"

namespace apex::kernels {

// What ggml's quantizer of a type does with an importance matrix.
enum class MatrixUse : int8_t { ignored, optional, required };

}  // namespace apex::kernels

// X(ggml's name, function of families.h, struct of cuda/all_types.cuh, ggml's block, weights of a
// block, matrix)
#define APEX_QUANTIZED_TYPES(X)                               \
    X(Q8_0, q8_0, Q8_0, block_q8_0, 32, ignored)              \
    X(Q6_K, q6_k, Q6_K, block_q6_K, 256, optional)            \
    X(Q5_K, q5_k, Q5_K, block_q5_K, 256, optional)            \
    X(Q4_K, q4_k, Q4_K, block_q4_K, 256, optional)            \
    X(Q3_K, q3_k, Q3_K, block_q3_K, 256, optional)            \
    X(Q2_K, q2_k, Q2_K, block_q2_K, 256, optional)            \
    X(IQ4_XS, iq4_xs, Iq4Xs, block_iq4_xs, 256, optional)     \
    X(IQ4_NL, iq4_nl, Iq4Nl, block_iq4_nl, 32, optional)      \
    X(IQ3_S, iq3_s, Iq3S, block_iq3_s, 256, optional)         \
    X(IQ3_XXS, iq3_xxs, Iq3Xxs, block_iq3_xxs, 256, optional) \
    X(IQ2_S, iq2_s, Iq2S, block_iq2_s, 256, optional)         \
    X(IQ2_XS, iq2_xs, Iq2Xs, block_iq2_xs, 256, required)     \
    X(IQ2_XXS, iq2_xxs, Iq2Xxs, block_iq2_xxs, 256, required) \
    X(IQ1_M, iq1_m, Iq1M, block_iq1_m, 256, optional)         \
    X(IQ1_S, iq1_s, Iq1S, block_iq1_s, 256, required)

namespace apex::kernels {

struct QuantizedType {
    ggml_type type;
    MatrixUse matrix;
};

inline constexpr QuantizedType kQuantizedTypes[] = {
#define APEX_ENTRY(name, function, gpu_type, block, weights, matrix) \
    {GGML_TYPE_##name, MatrixUse::matrix},
    APEX_QUANTIZED_TYPES(APEX_ENTRY)
#undef APEX_ENTRY
};

}  // namespace apex::kernels
