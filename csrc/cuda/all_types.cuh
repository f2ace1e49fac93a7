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
#include "kernels/quantized_types.h"

namespace apex::cuda {

template <typename T>
struct Tag {
    using Type = T;
};

// By what the table of types says of the importance matrix.
template <template <bool> class Type, typename Visitor>
bool visit_ignored(bool /*with_imatrix*/, Visitor& visitor) {
    visitor(Tag<Type<false>>{});
    return true;
}

template <template <bool> class Type, typename Visitor>
bool visit_optional(bool with_imatrix, Visitor& visitor) {
    if (with_imatrix) {
        visitor(Tag<Type<true>>{});
    } else {
        visitor(Tag<Type<false>>{});
    }
    return true;
}

template <template <bool> class Type, typename Visitor>
bool visit_required(bool with_imatrix, Visitor& visitor) {
    if (with_imatrix) visitor(Tag<Type<true>>{});
    return with_imatrix;
}

// Calls visitor(Tag<the type's struct>); false if there is none.
template <typename Visitor>
bool visit_type(ggml_type type, bool with_imatrix, Visitor visitor) {
    switch (type) {
#define APEX_CASE(name, function, gpu_type, block, weights, matrix) \
    case GGML_TYPE_##name:                                          \
        return visit_##matrix<gpu_type>(with_imatrix, visitor);
        APEX_QUANTIZED_TYPES(APEX_CASE)
#undef APEX_CASE
        default:
            return false;
    }
}

}  // namespace apex::cuda
