#include "calibration/matmul_node.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace apex {
namespace {

// The scheduler names a copy on another device "CUDA0#blk.0.attn_k.weight#0".
std::string file_name(const char* name) {
    const char* begin = std::strchr(name, '#');
    if (begin == nullptr) return name;
    const char* end = std::strchr(++begin, '#');
    return end == nullptr ? std::string(begin) : std::string(begin, end);
}

bool is_weight_name(const std::string& name) {
    constexpr char kSuffix[] = ".weight";
    constexpr size_t kLength = sizeof(kSuffix) - 1;
    return name.size() > kLength && name.compare(name.size() - kLength, kLength, kSuffix) == 0;
}

// Reshapes and views show the same values; an in-place operation is a view too, but of others.
const ggml_tensor* behind_views(const ggml_tensor* tensor) {
    while (tensor->src[0] != nullptr &&
           (tensor->op == GGML_OP_RESHAPE || tensor->op == GGML_OP_VIEW)) {
        tensor = tensor->src[0];
    }
    return tensor;
}

InputIdentity identify(const MatmulNode& node) {
    InputIdentity identity;
    identity.values = behind_views(node.input);
    identity.experts = node.experts == nullptr ? nullptr : behind_views(node.experts);
    identity.offset = node.input->view_offs;
    // The strides of dimensions of one element say nothing, and differ between a tensor and its
    // reshape.
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        identity.ne[i] = node.input->ne[i];
        identity.nb[i] = node.input->ne[i] > 1 ? node.input->nb[i] : 0;
    }
    identity.n_matrices[0] = node.weight.ne[2];
    identity.n_matrices[1] = node.weight.ne[3];
    return identity;
}

}  // namespace

bool InputIdentity::operator==(const InputIdentity& other) const {
    return values == other.values && experts == other.experts && offset == other.offset &&
           std::equal(std::begin(ne), std::end(ne), other.ne) &&
           std::equal(std::begin(nb), std::end(nb), other.nb) &&
           std::equal(std::begin(n_matrices), std::end(n_matrices), other.n_matrices);
}

std::optional<MatmulNode> as_matmul(const ggml_tensor* node) {
    if (node->op != GGML_OP_MUL_MAT && node->op != GGML_OP_MUL_MAT_ID) return std::nullopt;
    const ggml_tensor *matrix = node->src[0], *input = node->src[1];
    if (matrix == nullptr || input == nullptr) return std::nullopt;
    if (matrix->op != GGML_OP_NONE || input->type != GGML_TYPE_F32) return std::nullopt;
    WeightShape weight;
    weight.name = file_name(matrix->name);
    if (!is_weight_name(weight.name)) return std::nullopt;
    std::copy(std::begin(matrix->ne), std::end(matrix->ne), weight.ne);
    return make_matmul(std::move(weight), input,
                       node->op == GGML_OP_MUL_MAT_ID ? node->src[2] : nullptr);
}

MatmulNode make_matmul(WeightShape weight, const ggml_tensor* input, const ggml_tensor* experts) {
    MatmulNode result;
    result.weight = std::move(weight);
    result.input = input;
    result.experts = experts;
    result.identity = identify(result);
    return result;
}

}  // namespace apex
