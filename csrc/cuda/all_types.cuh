// From a ggml type to the struct that quantizes to it.
#pragma once

#include "cuda/iq1_m.cuh"
#include "cuda/iq1_s.cuh"
#include "cuda/iq2.cuh"
#include "cuda/iq3.cuh"
#include "cuda/iq4.cuh"
#include "cuda/k_scale_min.cuh"
#include "cuda/q2_k.cuh"
#include "cuda/q3_k.cuh"
#include "cuda/q6_k.cuh"
#include "cuda/q8_0.cuh"
#include "ggml.h"

namespace apex::cuda {

template <typename T>
struct Tag {
    using Type = T;
};

template <template <bool> class Type, typename Visitor>
bool visit_both(bool with_imatrix, Visitor& visitor) {
    if (with_imatrix) {
        visitor(Tag<Type<true>>{});
    } else {
        visitor(Tag<Type<false>>{});
    }
    return true;
}

// For types that cannot do without a matrix.
template <template <bool> class Type, typename Visitor>
bool visit_matrix_only(bool with_imatrix, Visitor& visitor) {
    if (with_imatrix) visitor(Tag<Type<true>>{});
    return with_imatrix;
}

// Calls visitor(Tag<the type's struct>); false if there is none.
template <typename Visitor>
bool visit_type(ggml_type type, bool with_imatrix, Visitor visitor) {
    switch (type) {
        case GGML_TYPE_Q8_0:
            return visit_both<Q8_0>(false, visitor);  // the matrix is not used
        case GGML_TYPE_Q6_K:
            return visit_both<Q6_K>(with_imatrix, visitor);
        case GGML_TYPE_Q5_K:
            return visit_both<Q5_K>(with_imatrix, visitor);
        case GGML_TYPE_Q4_K:
            return visit_both<Q4_K>(with_imatrix, visitor);
        case GGML_TYPE_Q3_K:
            return visit_both<Q3_K>(with_imatrix, visitor);
        case GGML_TYPE_Q2_K:
            return visit_both<Q2_K>(with_imatrix, visitor);
        case GGML_TYPE_IQ4_XS:
            return visit_both<Iq4Xs>(with_imatrix, visitor);
        case GGML_TYPE_IQ4_NL:
            return visit_both<Iq4Nl>(with_imatrix, visitor);
        case GGML_TYPE_IQ3_S:
            return visit_both<Iq3S>(with_imatrix, visitor);
        case GGML_TYPE_IQ3_XXS:
            return visit_both<Iq3Xxs>(with_imatrix, visitor);
        case GGML_TYPE_IQ2_S:
            return visit_both<Iq2S>(with_imatrix, visitor);
        case GGML_TYPE_IQ2_XS:
            return visit_matrix_only<Iq2Xs>(with_imatrix, visitor);
        case GGML_TYPE_IQ2_XXS:
            return visit_matrix_only<Iq2Xxs>(with_imatrix, visitor);
        case GGML_TYPE_IQ1_M:
            return visit_both<Iq1M>(with_imatrix, visitor);
        case GGML_TYPE_IQ1_S:
            return visit_matrix_only<Iq1S>(with_imatrix, visitor);
        default:
            return false;
    }
}

}  // namespace apex::cuda
