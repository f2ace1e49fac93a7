#include "model/cache_tensors.h"

#include <charconv>
#include <map>
#include <string_view>
#include <utility>

namespace apex {
namespace {

using ByLayer = std::map<std::pair<int, std::string>, CacheTensor>;

// cache_<kind>_l<layer>, as llama-kv-cache.cpp and llama-memory-recurrent.cpp name them.
void add_if_cache(const ggml_tensor* tensor, ByLayer& found) {
    constexpr std::string_view kPrefix = "cache_";
    if (tensor == nullptr) return;
    if (tensor->view_src != nullptr) tensor = tensor->view_src;
    const std::string_view name = ggml_get_name(tensor);
    const size_t end = name.rfind("_l");
    if (name.substr(0, kPrefix.size()) != kPrefix || end == name.npos || end < kPrefix.size()) {
        return;
    }
    CacheTensor cache;
    const std::string_view number = name.substr(end + 2);
    const char* last = number.data() + number.size();
    const auto parsed = std::from_chars(number.data(), last, cache.layer);
    if (parsed.ec != std::errc{} || parsed.ptr != last) return;
    cache.kind = name.substr(kPrefix.size(), end - kPrefix.size());
    cache.type = tensor->type;
    cache.width = tensor->ne[0];
    cache.rows = ggml_nrows(tensor);
    cache.n_bytes = ggml_nbytes(tensor);
    found.emplace(std::make_pair(cache.layer, cache.kind), cache);
}

}  // namespace

std::vector<CacheTensor> cache_tensors(const std::shared_ptr<Model>& model,
                                       const ContextOptions& options) {
    Context context(model, std::make_shared<ThreadPool>(1), options);
    ByLayer found;
    ggml_cgraph* graph = context.largest_graph();
    for (int i = 0; graph != nullptr && i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor* node = ggml_graph_node(graph, i);
        add_if_cache(node, found);
        for (const ggml_tensor* source : node->src) add_if_cache(source, found);
    }
    std::vector<CacheTensor> tensors;
    tensors.reserve(found.size());
    for (auto& [key, tensor] : found) tensors.push_back(std::move(tensor));
    return tensors;
}

}  // namespace apex
