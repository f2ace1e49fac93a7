#include "calibration/layer_border.h"

#include "core/error.h"
#include "ggml-backend.h"
#include "model/skippable_nodes.h"

namespace apex {

bool LayerBorder::is_border(const ggml_tensor* node, const BorderStates* states) const {
    return states != nullptr && is_layer_state(node) && layer_after(node) == states->layer;
}

void LayerBorder::begin_graph(const ggml_tensor* first) {
    first_name_ = first->name;
    n_tokens_ = first->ne[1];
    is_ended_ = is_recorded_ = false;
    next_node_ = 0;
    ++n_graphs_;
    learned_.clear();
    const auto known = plans_.find(n_tokens_);
    plan_ = known == plans_.end() ? nullptr : &known->second;
}

bool LayerBorder::wants(ggml_tensor* node) {
    // A graph may be used again: what was left out of it before is computed unless it is now.
    node->flags |= GGML_TENSOR_FLAG_COMPUTE;
    if (is_ended_) {
        if (!first_name_.empty() && first_name_ != node->name) return false;  // of another part
        begin_graph(node);
    }
    const size_t index = next_node_++;
    const bool is_kept = is_border(node, record_.get());
    if (plan_ == nullptr) {
        learned_.push_back(node);
        return is_kept;
    }
    if (plan_->border == kNowhere || index > plan_->border) return is_kept;
    if (plan_->names[index] != node->name) {
        fail<ModelError>("a graph of ", n_tokens_, " tokens has ", node->name, " where it had ",
                         plan_->names[index], " before");
    }
    if (plan_->skip[index]) node->flags &= ~GGML_TENSOR_FLAG_COMPUTE;
    return is_kept || index == plan_->border;
}

void LayerBorder::observe(ggml_tensor* node) {
    if (plan_ != nullptr && next_node_ - 1 == plan_->border) {
        const std::vector<uint8_t>& state = start_->states.at(n_graphs_ - 1);
        if (state.size() != ggml_nbytes(node)) {
            fail<ModelError>(node->name, ": ", state.size(), " bytes were kept of ",
                             ggml_nbytes(node));
        }
        ggml_backend_tensor_set(node, state.data(), 0, state.size());
    }
    if (!is_border(node, record_.get()) || is_recorded_) return;
    record_->states.emplace_back(ggml_nbytes(node));
    ggml_backend_tensor_get(node, record_->states.back().data(), 0, ggml_nbytes(node));
    is_recorded_ = true;
}

void LayerBorder::end_graph() {
    is_ended_ = true;
    if (plan_ != nullptr || start_ == nullptr) return;
    Plan plan;
    for (size_t i = 0; i < learned_.size(); ++i) {
        plan.names.emplace_back(learned_[i]->name);
        if (!is_border(learned_[i], start_.get())) continue;
        plan.border = i;
        plan.skip = skippable_nodes(learned_, i);
        break;
    }
    plans_[n_tokens_] = std::move(plan);
    learned_.clear();
}

}  // namespace apex
