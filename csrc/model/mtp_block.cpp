#include "model/mtp_block.h"

#include "core/error.h"
#include "llama-ext.h"

namespace apex {
namespace {

ContextOptions block_options(const ContextOptions& trunk) {
    ContextOptions options = trunk;
    options.leave_logits = true;
    options.mtp = true;
    return options;
}

}  // namespace

int32_t n_mtp_heads(const Model& model) {
    return model.options().load_mtp ? llama_model_n_layer_nextn(model.get()) : 0;
}

MtpBlock::MtpBlock(Context& trunk, std::shared_ptr<ThreadPool> pool, EvalHook* hook,
                   std::shared_ptr<const StopFlag> stop)
    : trunk_(trunk),
      context_(trunk.shared_model(), std::move(pool), block_options(trunk.options()), hook,
               std::move(stop)),
      width_(static_cast<size_t>(llama_model_n_embd_out(trunk.model().get()))),
      last_state_(trunk.options().n_seq_max) {
    llama_set_embeddings_nextn(trunk.get(), true, /*masked*/ false);
}

void MtpBlock::clear_memory() {
    context_.clear_memory();
    for (auto& state : last_state_) state.clear();
}

void MtpBlock::fill_batch(const std::vector<llama_token>& tokens, int32_t n_sequences,
                          llama_pos first) {
    const float* states = llama_get_embeddings_nextn(trunk_.get());
    if (states == nullptr) {
        fail<ModelError>(trunk_.model().path(),
                         ": llama.cpp hands out no hidden states for its MTP block");
    }
    const size_t length = tokens.size() / static_cast<size_t>(n_sequences);
    std::vector<float> rows;
    batch_.clear();
    for (int32_t sequence = 0; sequence < n_sequences; ++sequence) {
        std::vector<float>& last = last_state_[static_cast<size_t>(sequence)];
        for (size_t i = 0; i < length; ++i) {
            const size_t token = static_cast<size_t>(sequence) * length + i;
            const float* state = i > 0 ? states + (token - 1) * width_ : last.data();
            if (i == 0 && last.empty()) continue;
            batch_.add(tokens[token], first + static_cast<llama_pos>(i), sequence, true);
            rows.insert(rows.end(), state, state + width_);
        }
        const float* end = states + (static_cast<size_t>(sequence) + 1) * length * width_;
        last.assign(end - width_, end);
    }
    batch_.set_hidden_states(std::move(rows));
}

void MtpBlock::decode(const std::vector<llama_token>& tokens, int32_t n_sequences,
                      llama_pos first) {
    fill_batch(tokens, n_sequences, first);
    if (batch_.n_tokens() == 0) return;
    const int32_t n_heads = n_mtp_heads(trunk_.model());
    for (int32_t head = 0; head < n_heads; ++head) {
        // The heads share the cache's cells, each has a layer of its own in them.
        for (int32_t sequence = 0; head > 0 && sequence < n_sequences; ++sequence) {
            llama_memory_seq_rm(llama_get_memory(context_.get()), sequence, first, -1);
        }
        if (n_heads > 1) llama_set_nextn_layer_offset(context_.get(), head);
        context_.decode(batch_);
    }
}

}  // namespace apex
