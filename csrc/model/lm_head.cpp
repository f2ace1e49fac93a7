#include "model/lm_head.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "ggml-cpp.h"

namespace apex {
namespace {

bool is_weight(const ggml_tensor* tensor) {
    return tensor != nullptr && tensor->op == GGML_OP_NONE;
}

// Which source of a node is the state that goes through it, -1 where the step is not known.
int state_source(const ggml_tensor* node) {
    switch (node->op) {
        case GGML_OP_MUL_MAT:
            return is_weight(node->src[0]) ? 1 : -1;
        case GGML_OP_ADD:
        case GGML_OP_MUL:
            return is_weight(node->src[1]) ? 0 : -1;
        case GGML_OP_SCALE:
        case GGML_OP_UNARY:
            return 0;
        default:
            return -1;
    }
}

// In place: the node computed so far becomes the result.
ggml_tensor* apply(ggml_context* context, const HeadRecipe::Step& step, ggml_tensor* state,
                   ggml_tensor* weight) {
    float values[2];
    std::memcpy(values, step.params.data(), sizeof(values));
    switch (step.op) {
        case GGML_OP_ADD:
            return ggml_add_inplace(context, state, weight);
        case GGML_OP_MUL:
            return ggml_mul_inplace(context, state, weight);
        case GGML_OP_SCALE:
            return ggml_scale_bias_inplace(context, state, values[0], values[1]);
        default:
            return ggml_unary_inplace(context, state, static_cast<ggml_unary_op>(step.params[0]));
    }
}

}  // namespace

HeadRecipe read_recipe(const ggml_tensor* logits) {
    HeadRecipe recipe;
    const ggml_tensor* node = logits;
    while (std::strcmp(node->name, kHiddenName) != 0) {
        const int source = state_source(node);
        if (source < 0) {
            fail<ModelError>("this architecture computes its logits with ", ggml_op_name(node->op),
                             ", which cannot be repeated apart from the model; leave two-pass out");
        }
        HeadRecipe::Step step;
        step.op = node->op;
        std::memcpy(step.params.data(), node->op_params, sizeof(node->op_params));
        const ggml_tensor* weight = node->src[1 - source];
        if (weight != nullptr) step.weight = weight->name;
        recipe.steps.push_back(step);
        node = node->src[source];
    }
    std::reverse(recipe.steps.begin(), recipe.steps.end());
    if (recipe.steps.empty() || recipe.steps.front().op != GGML_OP_MUL_MAT) {
        fail<ModelError>(
            "this architecture does not begin its head with a product; leave "
            "two-pass out");
    }
    return recipe;
}

ggml_tensor* build_head(ggml_context* context, const HeadRecipe& recipe,
                        const std::vector<ggml_tensor*>& weights, ggml_tensor* hidden) {
    ggml_tensor* state = ggml_mul_mat(context, weights.front(), hidden);
    const HeadRecipe::Step& product = recipe.steps.front();
    std::memcpy(state->op_params, product.params.data(), sizeof(state->op_params));
    for (size_t i = 1; i < recipe.steps.size(); ++i) {
        state = apply(context, recipe.steps[i], state, weights[i]);
    }
    return state;
}

LmHead::LmHead(const std::string& path, HeadRecipe recipe)
    : path_(path), file_(path), recipe_(std::move(recipe)) {
    weights_.push_back(find_weight(recipe_.steps.front().weight));
    for (size_t i = 1; i < recipe_.steps.size(); ++i) {
        const std::string& name = recipe_.steps[i].weight;
        weights_.push_back(name.empty() ? Weight{} : find_weight(name));
        const Weight& weight = weights_.back();
        const bool fits = weight.ne[0] == n_vocab() || weight.ne[0] == 1;
        if (fits && (name.empty() || weight.type == GGML_TYPE_F32)) continue;
        fail<ModelError>(path_, ": '", name, "' does not fit the head");
    }
}

LmHead::Weight LmHead::find_weight(const std::string& name) const {
    const int64_t index = file_.find_tensor(name);
    if (index < 0) fail<ModelError>(path_, ": there is no tensor '", name, "'");
    const ShardTensor& tensor = file_.tensors()[static_cast<size_t>(index)];
    Weight weight;
    weight.type = tensor.entry.type;
    for (size_t i = 0; i < 4; ++i) weight.ne[i] = tensor.entry.ne[i];
    weight.data = file_.tensor_data(tensor);
    return weight;
}

void LmHead::compute(const float* hidden, int64_t n, float* logits, ThreadPool& pool) const {
    const size_t n_tensors = 2 + 2 * recipe_.steps.size();
    const size_t size =
        n_tensors * ggml_tensor_overhead() + ggml_graph_overhead_custom(n_tensors, false);
    const ggml_context_ptr context(ggml_init({size, nullptr, true}));
    if (!context) fail<ModelError>("ggml cannot make a graph of the head");
    const auto tensor = [&](ggml_type type, const std::array<int64_t, 4>& ne, const void* data) {
        ggml_tensor* made = ggml_new_tensor(context.get(), type, 4, ne.data());
        made->data = const_cast<void*>(data);  // only read
        return made;
    };
    std::vector<ggml_tensor*> operands;
    for (const Weight& weight : weights_) {
        operands.push_back(weight.data == nullptr ? nullptr
                                                  : tensor(weight.type, weight.ne, weight.data));
    }
    ggml_tensor* result = build_head(context.get(), recipe_, operands,
                                     tensor(GGML_TYPE_F32, {n_embd(), n, 1, 1}, hidden));
    ggml_cgraph* graph = ggml_new_graph_custom(context.get(), n_tensors, false);
    ggml_build_forward_expand(graph, result);
    // Each step but the first one works in place.
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) ggml_graph_node(graph, i)->data = logits;
    ggml_cplan plan = ggml_graph_plan(graph, pool.n_threads(), pool.get());
    std::vector<uint8_t> work(plan.work_size);
    plan.work_data = work.data();
    if (ggml_graph_compute(graph, &plan) != GGML_STATUS_SUCCESS) {
        fail<ModelError>(path_, ": ggml cannot compute the head");
    }
}

}  // namespace apex
