#include "allocation/layer_states.h"

#include <cstdlib>
#include <cstring>
#include <unordered_set>

#include "core/error.h"
#include "ggml-backend.h"

namespace apex {
namespace {

// llama.cpp's name for the residual stream after a layer (src/models/*.cpp): "l_out-7".
constexpr char kStatePrefix[] = "l_out-";

const ggml_tensor* root_of(const ggml_tensor* tensor) {
    while (tensor->view_src != nullptr) tensor = tensor->view_src;
    return tensor;
}

int32_t layer_after(const ggml_tensor* node) {
    return static_cast<int32_t>(std::strtol(node->name + sizeof(kStatePrefix) - 1, nullptr, 10)) +
           1;
}

}  // namespace

bool LayerStates::is_state(const ggml_tensor* node) {
    return std::strncmp(node->name, kStatePrefix, sizeof(kStatePrefix) - 1) == 0;
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
    for (auto& [layer, cut] : cuts_) plan_cut(cut);
}

// Everything before the state is left out but what later nodes read, directly or through others,
// or through memory that both see (a cache that layers share).
void LayerStates::plan_cut(Cut& cut) const {
    std::unordered_map<const ggml_tensor*, size_t> before;
    for (size_t i = 0; i < cut.node; ++i) before[nodes_[i]] = i;
    std::unordered_set<const ggml_tensor*> read_roots;
    std::vector<size_t> waiting;
    cut.skip.assign(cut.node + 1, true);
    const auto need = [&](const ggml_tensor* tensor) {
        const auto found = before.find(tensor);
        if (found == before.end() || !cut.skip[found->second]) return;
        cut.skip[found->second] = false;
        waiting.push_back(found->second);
    };
    const auto need_sources = [&](const ggml_tensor* node) {
        for (const ggml_tensor* source : node->src) {
            if (source == nullptr) continue;
            need(source);
            read_roots.insert(root_of(source));
        }
        if (node->view_src != nullptr) need(node->view_src);
    };
    for (size_t i = cut.node + 1; i < nodes_.size(); ++i) need_sources(nodes_[i]);
    for (const auto& [node, index] : before) {
        const ggml_tensor* root = root_of(node);
        // Written into memory that is no node's: a cache.
        if (root != node && before.count(root) == 0 && read_roots.count(root) > 0) need(node);
    }
    while (!waiting.empty()) {
        const ggml_tensor* node = nodes_[waiting.back()];
        waiting.pop_back();
        need_sources(node);
    }
}

}  // namespace apex
