// The multi-token-prediction block beside a trunk: decoded on the trunk's hidden states.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/context.h"

namespace apex {

// Number of MTP heads the model was loaded with; 0 where there are none.
int32_t n_mtp_heads(const Model& model);

class MtpBlock {
  public:
    // Makes trunk keep its hidden states. hook sees the block's graphs. Throws ModelError with
    // llama.cpp's reason where the architecture has no graph for its block.
    MtpBlock(Context& trunk, std::shared_ptr<ThreadPool> pool, EvalHook* hook,
             std::shared_ptr<const StopFlag> stop);

    // Forgets all sequences.
    void clear_memory();

    // To be called after trunk decoded these tokens: n_sequences runs of equal length, one after
    // the other, that begin at position first. Each token meets the state before it, as in
    // llama.cpp's own driver (common/speculative.cpp); a sequence's first token has none and is
    // left out.
    void decode(const std::vector<llama_token>& tokens, int32_t n_sequences, llama_pos first);

    Context& context() { return context_; }

  private:
    void fill_batch(const std::vector<llama_token>& tokens, int32_t n_sequences, llama_pos first);

    Context& trunk_;
    Context context_;
    Batch batch_;
    size_t width_;
    std::vector<std::vector<float>> last_state_;  // of each sequence
};

}  // namespace apex
