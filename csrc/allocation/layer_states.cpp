#include "allocation/layer_states.h"

#include "core/error.h"
#include "ggml-backend.h"
#include "model/skippable_nodes.h"

namespace apex {

bool LayerStates::is_state(const ggml_tensor* node) {
    return is_layer_state(node);
}

void LayerStates::begin_recording() {
    recording_ = true;
    replayed_ = nullptr;
    next_node_ = 0;
    nodes_.clear();
    cuts_.clear();
}

void LayerStates::begin_replay(int32_t first_layer) {
    recording_ = false;
    const auto cut = cuts_.find(first_layer);
    replayed_ = cut == cuts_.end() ? nullptr : &cut->second;
    next_node_ = 0;
}

bool LayerStates::wants(ggml_tensor* node) {
    const size_t index = next_node_++;
    // A graph may be used again: what an earlier replay left out is computed unless it is now.
    node->flags |= GGML_TENSOR_FLAG_COMPUTE;
    if (recording_) {
        nodes_.push_back(node);
        return is_state(node);
    }
    if (replayed_ == nullptr || index > replayed_->node) return false;
    if (replayed_->skip[index]) node->flags &= ~GGML_TENSOR_FLAG_COMPUTE;
    return index == replayed_->node;
}

void LayerStates::observe(ggml_tensor* node) {
    if (recording_) {
        Cut cut;
        cut.node = next_node_ - 1;
        cut.state.resize(ggml_nbytes(node));
        ggml_backend_tensor_get(node, cut.state.data(), 0, cut.state.size());
        cuts_[layer_after(node)] = std::move(cut);
        return;
    }
    if (!is_state(node) || ggml_nbytes(node) != replayed_->state.size()) {
        fail<ModelError>("the graph of a candidate differs from the reference's at ", node->name);
    }
    ggml_backend_tensor_set(node, replayed_->state.data(), 0, replayed_->state.size());
}

void LayerStates::finish_recording() {
    recording_ = false;
    for (auto& [layer, cut] : cuts_) cut.skip = skippable_nodes(nodes_, cut.node);
}

}  // namespace apex
