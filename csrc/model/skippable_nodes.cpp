#include "model/skippable_nodes.h"

#include <cstdlib>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

namespace apex {
namespace {

constexpr char kStatePrefix[] = "l_out-";

const ggml_tensor* root_of(const ggml_tensor* tensor) {
    while (tensor->view_src != nullptr) tensor = tensor->view_src;
    return tensor;
}

}  // namespace

bool is_layer_state(const ggml_tensor* node) {
    return std::strncmp(node->name, kStatePrefix, sizeof(kStatePrefix) - 1) == 0;
}

int layer_after(const ggml_tensor* state) {
    return static_cast<int>(std::strtol(state->name + sizeof(kStatePrefix) - 1, nullptr, 10)) + 1;
}

bool has_layer_state(ggml_cgraph* graph, int layer) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor* node = ggml_graph_node(graph, i);
        if (is_layer_state(node) && layer_after(node) == layer) return true;
    }
    return false;
}

std::vector<bool> skippable_nodes(const std::vector<ggml_tensor*>& nodes, size_t state) {
    std::unordered_map<const ggml_tensor*, size_t> before;
    for (size_t i = 0; i < state; ++i) before[nodes[i]] = i;
    std::unordered_set<const ggml_tensor*> read_roots;
    std::vector<size_t> waiting;
    std::vector<bool> skip(state + 1, true);
    const auto need = [&](const ggml_tensor* tensor) {
        const auto found = before.find(tensor);
        if (found == before.end() || !skip[found->second]) return;
        skip[found->second] = false;
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
    for (size_t i = state + 1; i < nodes.size(); ++i) need_sources(nodes[i]);
    for (const auto& [node, index] : before) {
        const ggml_tensor* root = root_of(node);
        // Written into memory that is no node's: a cache.
        if (root != node && before.count(root) == 0 && read_roots.count(root) > 0) need(node);
    }
    while (!waiting.empty()) {
        const ggml_tensor* node = nodes[waiting.back()];
        waiting.pop_back();
        need_sources(node);
    }
    return skip;
}

}  // namespace apex
