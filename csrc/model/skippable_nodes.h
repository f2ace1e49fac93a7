// What of a graph need not be computed where one of its values is put there from outside.
#pragma once

#include <cstddef>
#include <vector>

#include "ggml.h"

namespace apex {

// The residual stream after a layer, as llama.cpp names it (src/models/*.cpp): "l_out-7".
bool is_layer_state(const ggml_tensor* node);
// The layer that goes on from it.
int layer_after(const ggml_tensor* state);

// Is there a state that goes into this layer?
bool has_layer_state(ggml_cgraph* graph, int layer);

// Of nodes 0 to state of a graph, in its order, which lead up to that state only: all but those
// that later nodes read, directly or through others, or through memory that both see (a cache that
// layers share). nodes end where the computation does.
std::vector<bool> skippable_nodes(const std::vector<ggml_tensor*>& nodes, size_t state);

}  // namespace apex
