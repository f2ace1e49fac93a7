#include "scoring/router_hook.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "ggml-backend.h"

namespace apex {
namespace {

// The name llama.cpp gives the chosen experts (src/llama-graph.cpp, build_moe_ffn) and a layer.
constexpr char kPrefix[] = "ffn_moe_topk-";
constexpr size_t kPrefixLength = sizeof(kPrefix) - 1;

bool same_set(const int32_t* first, const int32_t* second, int32_t n) {
    for (int32_t i = 0; i < n; ++i) {
        if (std::find(second, second + n, first[i]) == second + n) return false;
    }
    return true;
}

}  // namespace

bool RouterHook::wants(const ggml_tensor* node) {
    return std::strncmp(node->name, kPrefix, kPrefixLength) == 0;
}

void RouterHook::observe(const ggml_tensor* node) {
    if (node->type != GGML_TYPE_I32 || node->nb[0] != sizeof(int32_t)) {
        fail<ModelError>("expected ", node->name, " as rows of I32, found ",
                         ggml_type_name(node->type));
    }
    LayerChoices& layer = choices_[std::atoi(node->name + kPrefixLength)];
    layer.n_used = static_cast<int32_t>(node->ne[0]);
    const auto n_tokens = static_cast<size_t>(node->ne[1]);
    const auto n_used = static_cast<size_t>(node->ne[0]);
    if (n_tokens == 0) return;
    // The node is a view: the first columns of all experts in order.
    const size_t n_before = layer.experts.size(), row_bytes = n_used * sizeof(int32_t);
    layer.experts.resize(n_before + n_tokens * n_used);
    ggml_backend_tensor_get_2d(node, layer.experts.data() + n_before, 0, row_bytes, n_tokens,
                               node->nb[1], row_bytes);
}

void RouterHook::clear() {
    for (auto& [layer, choices] : choices_) choices.experts.clear();
}

void add_counts(const RouterCounts& from, RouterCounts& to) {
    for (const auto& [layer, count] : from) {
        RouterAgreement& total = to[layer];
        total.n_tokens += count.n_tokens;
        total.n_same_set += count.n_same_set;
        total.n_same_first += count.n_same_first;
    }
}

void count_agreement(const RouterChoices& reference, const RouterChoices& candidate,
                     RouterCounts& counts) {
    for (const auto& [layer, ours] : reference) {
        const auto found = candidate.find(layer);
        if (found == candidate.end()) continue;
        const LayerChoices& theirs = found->second;
        if (theirs.n_used != ours.n_used || theirs.experts.size() != ours.experts.size()) continue;
        RouterAgreement& count = counts[layer];
        for (int64_t i = 0; i < ours.n_tokens(); ++i) {
            const int32_t* first = ours.experts.data() + i * ours.n_used;
            const int32_t* second = theirs.experts.data() + i * ours.n_used;
            count.n_same_set += same_set(first, second, ours.n_used);
            count.n_same_first += first[0] == second[0];
        }
        count.n_tokens += ours.n_tokens();
    }
}

}  // namespace apex
