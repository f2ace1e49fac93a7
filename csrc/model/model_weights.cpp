#include "model/model_weights.h"

#include <algorithm>
#include <regex>
#include <tuple>

#include "core/error.h"
#include "ggml-backend-impl.h"
#include "ggml-cpp.h"
#include "llama-model.h"
#include "model/model_params.h"
#include "repack.h"

namespace apex {
namespace {

// A product as a model computes it, for the question whether it can be computed.
ggml_tensor* example_product(ggml_context* context, ggml_tensor* weight) {
    constexpr int64_t kColumns = 512, kUsedExperts = 1;
    if (weight->ne[2] == 1) {
        return ggml_mul_mat(context, weight,
                            ggml_new_tensor_2d(context, GGML_TYPE_F32, weight->ne[0], kColumns));
    }
    ggml_tensor* input =
        ggml_new_tensor_3d(context, GGML_TYPE_F32, weight->ne[0], kUsedExperts, kColumns);
    ggml_tensor* experts = ggml_new_tensor_2d(context, GGML_TYPE_I32, kUsedExperts, kColumns);
    return ggml_mul_mat_id(context, weight, input, experts);
}

bool gains_from_repack(ggml_tensor* weight) {
    constexpr size_t kTensors = 3;
    const ggml_context_ptr context(
        ggml_init({kTensors * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
    if (!context) fail<ModelError>("no memory for a tensor");
    const ggml_backend_buffer_ptr empty(
        ggml_backend_buft_alloc_buffer(ggml_backend_cpu_repack_buffer_type(), 0));
    ggml_tensor* product = example_product(context.get(), weight);
    weight->buffer = empty.get();
    const bool supported = ggml_backend_dev_supports_op(
        ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), product);
    weight->buffer = nullptr;
    return supported;
}

}  // namespace

std::vector<ggml_tensor*> find_weights(const Model& model, const std::string& name) {
    std::vector<ggml_tensor*> found;
    for (const auto& [key, tensor] : llama_internal_get_tensor_map(model.get())) {
        if (key == name) found.push_back(tensor);
    }
    if (found.empty()) fail<ModelError>(model.path(), ": there is no tensor '", name, "'");
    return found;
}

std::vector<StreamedWeight> expert_weights(const Model& model, const std::vector<int>& layers) {
    std::vector<std::tuple<int, bool, std::string, ggml_tensor*>> found;
    for (const int layer : layers) {
        const std::regex pattern(experts_of_layer(layer) + "\\.weight");
        for (const auto& [name, tensor] : llama_internal_get_tensor_map(model.get())) {
            if (!std::regex_match(name, pattern)) continue;
            found.emplace_back(layer, name.find("down") != std::string::npos, name, tensor);
        }
    }
    if (found.empty())
        fail<ModelError>(model.path(), ": the layers to be streamed have no experts");
    std::sort(found.begin(), found.end());
    std::vector<StreamedWeight> weights;
    for (const auto& [layer, is_down, name, tensor] : found) weights.push_back({tensor, name});
    return weights;
}

std::vector<std::pair<std::string, size_t>> weight_bytes(const Model& model) {
    std::vector<std::pair<std::string, size_t>> found;
    for (const auto& [name, tensor] : llama_internal_get_tensor_map(model.get())) {
        found.emplace_back(name, ggml_nbytes(tensor));
    }
    return found;
}

std::vector<std::vector<char>> read_weights(const Model& model, const std::string& name) {
    std::vector<std::vector<char>> found;
    for (const ggml_tensor* tensor : find_weights(model, name)) {
        if (tensor->buffer->iface.get_tensor == nullptr) {
            fail<ModelError>(model.path(), ": '", name,
                             "' was rearranged for this CPU; load the model with repack=False");
        }
        found.emplace_back(ggml_nbytes(tensor));
        ggml_backend_tensor_get(tensor, found.back().data(), 0, found.back().size());
    }
    return found;
}

ggml_backend_buffer_type_t memory_for_weight(ggml_tensor* weight, const ggml_tensor* like,
                                             const std::string& name) {
    if (!ggml_backend_buffer_is_host(like->buffer)) {
        return ggml_backend_buffer_get_type(like->buffer);
    }
    // Rows of the embeddings are looked up, not multiplied.
    const bool is_looked_up = name.find("token_embd") != std::string::npos;
    return !is_looked_up && gains_from_repack(weight) ? ggml_backend_cpu_repack_buffer_type()
                                                      : ggml_backend_cpu_buffer_type();
}

}  // namespace apex
