// The first of two passes: one model alone, computed up to its head.
#pragma once

#include <atomic>
#include <string>

#include "scoring/hidden_states.h"
#include "scoring/lanes.h"

namespace apex {

class HiddenPass {
  public:
    // folder: for the hidden states; empty: memory. Throws what HiddenStates and contexts throw.
    // of_model: types of its cache; the rest is the lanes'.
    HiddenPass(const std::shared_ptr<Model>& model, ChunkTokens tokens, const LaneOptions& options,
               ModelSourceOptions of_model, const std::string& folder,
               const std::shared_ptr<const StopFlag>& stop);

    // From this chunk on, a group's first: those before it are recorded otherwise
    // (RecordedReference). Throws InvalidArgument, Cancelled, or what a context throws.
    void run(int32_t first_chunk = 0);

    // Share of the steps that are done; readable while run() runs.
    double progress() const { return double(n_done_.load()) / double(steps_.size()); }

    const std::shared_ptr<HiddenStates>& states() const { return states_; }

  private:
    ChunkShape shape_;
    std::shared_ptr<HiddenStates> states_;
    std::vector<std::unique_ptr<HiddenRecorder>> recorders_;  // one a lane
    std::vector<Step> steps_;
    std::atomic<int64_t> n_done_{0};
};

}  // namespace apex
