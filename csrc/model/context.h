// A computation over a model: KV cache, compute buffers, and who looks on.
#pragma once

#include <exception>
#include <memory>
#include <optional>

#include "model/batch.h"
#include "model/eval_hook.h"
#include "model/host_logits.h"
#include "model/model.h"
#include "model/routed_products.h"
#include "model/thread_pool.h"

namespace apex {

inline constexpr uint32_t kMaxSequences = 256;  // LLAMA_MAX_SEQ (src/llama-cparams.h)

// What llama.cpp makes of a sequence's tokens, warning where it has to (src/llama-context.cpp,
// n_ctx_seq).
constexpr uint32_t padded_context(uint32_t n_ctx) {
    constexpr uint32_t kMultiple = 256;
    return (n_ctx + kMultiple - 1) / kMultiple * kMultiple;
}

struct ContextOptions {
    uint32_t n_ctx = 512;        // tokens of all sequences together
    uint32_t n_batch = 512;      // tokens of one decode() at most
    uint32_t n_ubatch = 512;     // tokens computed at once
    uint32_t n_seq_max = 1;      // sequences, each with n_ctx / n_seq_max tokens (or shared)
    uint32_t n_outputs_max = 0;  // outputs of one decode() at most; 0: n_batch
    bool kv_unified = false;     // one cache for all sequences: needed where they share tokens
    ggml_type type_k = GGML_TYPE_F16;
    ggml_type type_v = GGML_TYPE_F16;
    std::optional<FlashAttention> flash_attention{};  // none: as the model was loaded
    bool swa_full = true;  // sliding-window layers keep the whole context, not their window alone
    // Logits are not copied to the host: a hook takes them (or their source) where they are.
    // Saves n_vocab floats an output; logits() may not be called.
    bool leave_logits = false;
    bool mtp = false;  // computes the multi-token-prediction block instead of the trunk
};

class Context {
  public:
    // hook sees every computation and must outlive the context; it may be null. The pool may serve
    // several contexts, one at a time. Throws ModelError with llama.cpp's reason (memory, types
    // that do not fit), InvalidArgument for options that contradict each other.
    Context(std::shared_ptr<Model> model, std::shared_ptr<ThreadPool> pool,
            const ContextOptions& options, EvalHook* hook = nullptr,
            std::shared_ptr<const StopFlag> stop = nullptr);
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

    // Computes a batch. Throws what the hook threw, Cancelled, or ModelError.
    void decode(Batch& batch);

    // Forgets all sequences.
    void clear_memory();

    // Row of the i-th token of the last batch, which must have been an output; n_vocab floats.
    const float* logits(int32_t i) const;

    // The graph of a full batch whose tokens are all outputs, valid until the next call of this
    // context's; null where llama.cpp makes none. Throws ModelError.
    ggml_cgraph* largest_graph();

    const Model& model() const { return *model_; }
    const std::shared_ptr<Model>& shared_model() const { return model_; }
    const ContextOptions& options() const { return options_; }
    llama_context* get() const { return context_.get(); }

  private:
    static bool on_eval(ggml_tensor* node, bool ask, void* self);
    bool ask(ggml_tensor* node);
    bool show(ggml_tensor* node);
    const ggml_tensor* streamed_weight(const ggml_tensor* node) const;
    static bool on_abort_check(void* self);
    // There was an error, or a stop.
    bool is_over() const { return hook_error_ || (stop_ && stop_->is_set()); }
    uint32_t max_outputs() const {
        return options_.n_outputs_max == 0 ? options_.n_batch : options_.n_outputs_max;
    }
    size_t host_logits_bytes() const;

    std::shared_ptr<Model> model_;
    std::shared_ptr<ThreadPool> pool_;
    ContextOptions options_;
    EvalHook* hook_;
    std::shared_ptr<const StopFlag> stop_;
    RoutedProducts products_;
    bool hook_wants_ = false;  // the node that was asked about last
    bool is_taken_ = false;    // it is computed by products_
    std::exception_ptr hook_error_;
    HostLogits host_logits_;
    llama_context_ptr context_;
};

}  // namespace apex
