// The first of two passes: the reference alone, computed up to its head.
#pragma once

#include <atomic>

#include "scoring/hidden_states.h"

namespace apex {

struct HiddenPassOptions {
    ChunkShape shape;
    int n_lanes = 1;
    int n_threads = 1;   // of each lane
    std::string folder;  // for the hidden states; empty: memory
    bool with_routes = false;
};

class HiddenPass {
  public:
    HiddenPass(const std::shared_ptr<Model>& model, ChunkTokens tokens,
               const HiddenPassOptions& options, const std::shared_ptr<const StopFlag>& stop);

    // Throws Cancelled, or what a context throws.
    void run();

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
