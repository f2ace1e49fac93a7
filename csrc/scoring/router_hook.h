// Which experts the routers of a model chose.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "ggml.h"

namespace apex {

// Of one layer in one step: n_used experts per token, the likeliest first. Tokens are in the order
// of the batch; in the last layer only outputs are computed.
struct LayerChoices {
    int32_t n_used = 0;
    std::vector<int32_t> experts;

    int64_t n_tokens() const { return n_used == 0 ? 0 : int64_t(experts.size()) / n_used; }
};

using RouterChoices = std::map<int32_t, LayerChoices>;  // by layer

// Recognises and copies the nodes; used by an EvalHook.
class RouterHook {
  public:
    static bool wants(const ggml_tensor* node);
    void observe(const ggml_tensor* node);
    void clear();
    const RouterChoices& choices() const { return choices_; }

  private:
    RouterChoices choices_;
};

// How often two models' routers agreed in one layer.
struct RouterAgreement {
    int64_t n_tokens = 0;
    int64_t n_same_set = 0;
    int64_t n_same_first = 0;
};

using RouterCounts = std::map<int32_t, RouterAgreement>;  // by layer

// Adds the tokens of a step; layers that only one of the two has are left out.
void count_agreement(const RouterChoices& reference, const RouterChoices& candidate,
                     RouterCounts& counts);

void add_counts(const RouterCounts& from, RouterCounts& to);

}  // namespace apex
