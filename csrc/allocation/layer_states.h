// The hidden state after every layer of a computed batch, and how to go on from one of them.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "ggml.h"

namespace apex {

// While a batch is recorded, the states after its layers are copied. While the same batch is
// replayed from a layer, what only leads up to that layer's input is not computed: ggml leaves out
// nodes without GGML_TENSOR_FLAG_COMPUTE, and the recorded state is put where it would have been.
// What later layers need besides (masks, positions, caches that layers share) is computed.
//
// Used by an EvalHook: every node of a graph goes through wants(), in their order.
class LayerStates {
  public:
    void begin_recording();

    // first_layer: the first that is computed; states before it must have been recorded. Where they
    // were not (an architecture that names them otherwise) everything is computed.
    void begin_replay(int32_t first_layer);

    bool wants(ggml_tensor* node);
    // Copies the state, or puts the recorded one there.
    void observe(ggml_tensor* node);
    static bool is_state(const ggml_tensor* node);

    // After a recorded batch: what a replay may leave out.
    void finish_recording();

    // Layers from which a replay can start; 0 always can.
    bool can_start_at(int32_t layer) const { return cuts_.count(layer) > 0; }

  private:
    struct Cut {
        size_t node = 0;             // index of the state in the graph
        std::vector<uint8_t> state;  // its data
        std::vector<bool> skip;      // of the nodes up to it
    };

    std::vector<ggml_tensor*> nodes_;        // of the recorded graph
    std::unordered_map<int32_t, Cut> cuts_;  // by the layer that starts there
    const Cut* replayed_ = nullptr;
    bool recording_ = false;
    size_t next_node_ = 0;
};

}  // namespace apex
