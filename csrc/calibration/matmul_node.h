// A matrix multiplication of a graph as calibration sees it: which weight, which input.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "ggml.h"

namespace apex {

// What identifies an input: two nodes with equal ones multiply the same values in the same way.
struct InputIdentity {
    const ggml_tensor* values = nullptr;  // the tensor computed last, behind reshapes
    const ggml_tensor* experts =
        nullptr;  // the ids that route it; null where all rows go everywhere
    size_t offset = 0;
    int64_t ne[GGML_MAX_DIMS] = {};
    size_t nb[GGML_MAX_DIMS] = {};
    int64_t n_matrices[2] = {};  // of the weight, ne[2] and ne[3]

    bool operator==(const InputIdentity& other) const;
};

// A weight, without a pointer to it: the scheduler's copies of one live as long as their graph.
struct WeightShape {
    std::string name;  // in the file
    int64_t ne[GGML_MAX_DIMS] = {};

    int64_t n_per_row() const { return ne[0]; }
    int64_t n_matrices() const { return ne[2] * ne[3]; }
};

struct MatmulNode {
    WeightShape weight;
    const ggml_tensor* input = nullptr;
    const ggml_tensor* experts = nullptr;  // I32 [used, tokens]; null for MUL_MAT
    InputIdentity identity;
};

// The node as a product with a weight of the model; nothing where it is something else, or where
// its left side was computed.
std::optional<MatmulNode> as_matmul(const ggml_tensor* node);

// The product of a weight with an input, without a node for it.
MatmulNode make_matmul(WeightShape weight, const ggml_tensor* input,
                       const ggml_tensor* experts = nullptr);

}  // namespace apex
