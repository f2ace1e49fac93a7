// Hidden states at the border of a layer: kept by one pass over a text, gone on from by the next.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ggml.h"

namespace apex {

// What goes into a layer, graph by graph of a whole pass.
struct BorderStates {
    int layer = 0;
    std::vector<std::vector<uint8_t>> states;

    size_t n_bytes() const {
        size_t bytes = 0;
        for (const std::vector<uint8_t>& state : states) bytes += state.size();
        return bytes;
    }
};

// Used by an EvalHook, which asks it of every node of a graph, in their order. A graph that starts
// at the border has the recorded state put where it would have been; what only leads up to it is
// not computed. The first graph of every number of tokens is computed whole, to learn what that is.
// The values behind the border are the same either way.
class LayerBorder {
  public:
    // start: null: graphs are computed from their beginning. record: null: nothing is kept.
    LayerBorder(std::shared_ptr<const BorderStates> start, std::shared_ptr<BorderStates> record)
        : start_(std::move(start)), record_(std::move(record)) {}

    bool wants(ggml_tensor* node);
    // Copies the state, or puts the recorded one there.
    void observe(ggml_tensor* node);

    // What this graph was to give is there.
    bool is_recorded() const { return record_ == nullptr || is_recorded_; }
    // Nothing of this graph is computed any more; its nodes are still there.
    void end_graph();

  private:
    static constexpr size_t kNowhere = SIZE_MAX;

    struct Plan {
        std::vector<std::string> names;  // of the nodes up to the border, to be sure of them
        std::vector<bool> skip;
        size_t border = kNowhere;
    };

    bool is_border(const ggml_tensor* node, const BorderStates* states) const;
    void begin_graph(const ggml_tensor* first);

    std::shared_ptr<const BorderStates> start_;
    std::shared_ptr<BorderStates> record_;
    std::map<int64_t, Plan> plans_;      // by tokens
    std::string first_name_;             // of every graph's first node
    std::vector<ggml_tensor*> learned_;  // nodes of a graph that is computed whole
    const Plan* plan_ = nullptr;         // of this graph; null: it is learned
    int64_t n_tokens_ = 0;
    size_t n_graphs_ = 0, next_node_ = 0;
    bool is_ended_ = true, is_recorded_ = false;
};

}  // namespace apex
