#include "calibration/output_input.h"

namespace apex {
namespace {

// ggml numbers what nobody named; such a name may be another node's in the next graph.
bool is_given_name(const std::string& name) {
    return !name.empty() && name.compare(0, 5, "node_") != 0;
}

int count_of(ggml_cgraph* graph, const std::string& name) {
    int count = 0;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        count += name == ggml_graph_node(graph, i)->name ? 1 : 0;
    }
    return count;
}

}  // namespace

bool is_output_weight(const MatmulNode& node) {
    return node.experts == nullptr &&
           (node.weight.name == "output.weight" || node.weight.name == "token_embd.weight");
}

OutputInput find_output_input(ggml_cgraph* graph) {
    std::optional<MatmulNode> last;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        if (auto matmul = as_matmul(ggml_graph_node(graph, i))) last = std::move(matmul);
    }
    OutputInput result;
    if (!last || !is_output_weight(*last)) return result;
    const std::string name = last->input->name;
    if (!is_given_name(name) || count_of(graph, name) != 1) return result;
    result.name = name;
    result.weight = last->weight;
    return result;
}

}  // namespace apex
