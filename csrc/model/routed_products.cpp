#include "model/routed_products.h"

#include <algorithm>

#include "core/error.h"
#include "model/tensor_place.h"

namespace apex {
namespace {

// Up to here llama.cpp has one kernel for all experts (mmf.cu, ggml_cuda_should_use_mmf).
constexpr int64_t kFewTokens = 128;

bool may_be_slow(const ggml_tensor* node) {
    if (node->op != GGML_OP_MUL_MAT_ID || node->type != GGML_TYPE_F32) return false;
    const ggml_tensor *weights = node->src[0], *input = node->src[1], *experts = node->src[2];
    const bool is_type = weights->type == GGML_TYPE_F16 || weights->type == GGML_TYPE_BF16;
    return is_type && experts->ne[1] > kFewTokens && ggml_is_contiguous(weights) &&
           weights->ne[3] == 1 && input->type == GGML_TYPE_F32 && input->nb[0] == sizeof(float) &&
           input->ne[0] == weights->ne[0] && experts->type == GGML_TYPE_I32 &&
           experts->ne[1] == input->ne[2];
}

DeviceRoutedProduct product_of(const ggml_tensor* node) {
    const ggml_tensor *weights = node->src[0], *input = node->src[1], *experts = node->src[2];
    DeviceRoutedProduct product;
    product.rows.data = input->data;
    std::copy_n(input->ne, 4, product.rows.ne);
    std::copy_n(input->nb, 4, product.rows.nb);
    std::copy_n(weights->ne + 2, 2, product.rows.n_matrices);
    product.rows.experts = experts->data;
    product.rows.n_used = experts->ne[0];
    product.rows.n_tokens = experts->ne[1];
    std::copy_n(experts->nb, 2, product.rows.expert_nb);
    product.weights = weights->data;
    product.type = weights->type;
    product.n_out = weights->ne[1];
    product.matrix_bytes = weights->nb[2];
    product.result = static_cast<float*>(node->data);
    std::copy_n(node->nb + 1, 2, product.result_nb);
    return product;
}

}  // namespace

DeviceProducts* RoutedProducts::products_on(int device) {
    const auto found = products_.find(device);
    if (found != products_.end()) return found->second.get();
    return (products_[device] = make_device_products(device)).get();
}

bool RoutedProducts::take(ggml_tensor* node) {
    // What a search leaves out has no inputs either.
    if ((node->flags & GGML_TENSOR_FLAG_COMPUTE) == 0 || !may_be_slow(node)) return false;
    const int device = device_of_tensor(node);
    if (device < 0) return false;
    for (int i = 0; i < 3; ++i) {
        if (device_of_tensor(node->src[i]) != device) return false;
    }
    DeviceProducts* products = products_on(device);
    if (products == nullptr || !products->takes(product_of(node))) return false;
    node->op = GGML_OP_NONE;
    taken_ = node;
    device_ = device;
    return true;
}

void RoutedProducts::compute(ggml_tensor* node) {
    if (node != taken_) return;
    give_back();
    if (products_.at(device_)->compute(product_of(node))) return;
    fail<ModelError>(node->src[0]->name, ": a token was sent to an expert that is none; the ",
                     "file's router is damaged");
}

void RoutedProducts::give_back() {
    if (taken_ != nullptr) taken_->op = GGML_OP_MUL_MAT_ID;
    taken_ = nullptr;
}

}  // namespace apex
