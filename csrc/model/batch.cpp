#include "model/batch.h"

namespace apex {

void Batch::clear() {
    tokens_.clear();
    positions_.clear();
    sequences_.clear();
    sequence_begin_.clear();
    n_sequences_.clear();
    is_output_.clear();
    hidden_states_.clear();
    n_outputs_ = 0;
}

void Batch::add(llama_token token, llama_pos position, llama_seq_id sequence, bool is_output) {
    sequence_begin_.push_back(sequences_.size());
    sequences_.push_back(sequence);
    n_sequences_.push_back(1);
    tokens_.push_back(token);
    positions_.push_back(position);
    is_output_.push_back(is_output);
    n_outputs_ += is_output ? 1 : 0;
}

void Batch::add(llama_token token, llama_pos position, const std::vector<llama_seq_id>& sequences,
                bool is_output) {
    add(token, position, sequences.front(), is_output);
    sequences_.insert(sequences_.end(), sequences.begin() + 1, sequences.end());
    n_sequences_.back() = static_cast<int32_t>(sequences.size());
}

llama_batch Batch::view() {
    sequence_pointers_.resize(tokens_.size());
    for (size_t i = 0; i < tokens_.size(); ++i) {
        sequence_pointers_[i] = sequences_.data() + sequence_begin_[i];
    }
    llama_batch batch{};
    batch.n_tokens = static_cast<int32_t>(tokens_.size());
    batch.token = tokens_.data();
    if (!hidden_states_.empty()) batch.embd = hidden_states_.data();
    batch.pos = positions_.data();
    batch.n_seq_id = n_sequences_.data();
    batch.seq_id = sequence_pointers_.data();
    batch.logits = is_output_.data();
    return batch;
}

}  // namespace apex
