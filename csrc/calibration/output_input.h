// The last thing a graph computes before the logits: where a graph may end that needs none.
#pragma once

#include <string>

#include "calibration/matmul_node.h"

namespace apex {

struct OutputInput {
    std::string name;    // of the node; empty: not found
    WeightShape weight;  // that it is multiplied with

    bool known() const { return !name.empty(); }
};

// The matrix that gives the logits: output.weight, or the token embeddings where they are tied.
bool is_output_weight(const MatmulNode& node);

// Looks at a graph whose nodes have the names of those to come. Not known where the output is not
// the last product with a weight, or where its input has no name of its own.
OutputInput find_output_input(ggml_cgraph* graph);

}  // namespace apex
