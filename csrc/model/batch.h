// Tokens for one llama_decode, in plain vectors.
#pragma once

#include <utility>
#include <vector>

#include "llama.h"

namespace apex {

class Batch {
  public:
    void clear();

    // is_output: logits are computed for this token. The sequences share the token.
    void add(llama_token token, llama_pos position, llama_seq_id sequence, bool is_output);
    void add(llama_token token, llama_pos position, const std::vector<llama_seq_id>& sequences,
             bool is_output);

    // Hidden states beside the tokens, one row for each in their order: what an MTP block takes.
    void set_hidden_states(std::vector<float> rows) { hidden_states_ = std::move(rows); }

    size_t n_tokens() const { return tokens_.size(); }
    size_t n_outputs() const { return n_outputs_; }

    // Valid until the next add() or clear().
    llama_batch view();

  private:
    std::vector<llama_token> tokens_;
    std::vector<llama_pos> positions_;
    std::vector<llama_seq_id> sequences_;  // of all tokens, one after the other
    std::vector<size_t> sequence_begin_;   // where each token's begin
    std::vector<int32_t> n_sequences_;     // how many each token has
    std::vector<llama_seq_id*> sequence_pointers_;
    std::vector<int8_t> is_output_;
    std::vector<float> hidden_states_;
    size_t n_outputs_ = 0;
};

}  // namespace apex
