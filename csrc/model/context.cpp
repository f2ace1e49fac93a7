#include "model/context.h"

#include <algorithm>
#include <string>

#include "core/abort_guard.h"
#include "core/error.h"
#include "core/log.h"
#include "llama-ext.h"
#include "model/cache_types.h"
#include "model/weight_stream.h"

namespace apex {
namespace {

void check_options(const Model& model, const ContextOptions& options) {
    if (model.options().vocab_only) {
        fail<InvalidArgument>(model.path(), " was loaded for its vocabulary only");
    }
    if (options.n_ctx < 1 || options.n_batch < 1 || options.n_ubatch < 1) {
        fail<InvalidArgument>("n_ctx, n_batch, n_ubatch: expected at least 1, found ",
                              options.n_ctx, ", ", options.n_batch, ", ", options.n_ubatch);
    }
    if (options.n_seq_max < 1 || options.n_seq_max > kMaxSequences) {
        fail<InvalidArgument>("n_seq_max: expected 1 to ", kMaxSequences, ", found ",
                              options.n_seq_max);
    }
    check_cache_types(model, options.type_k, options.type_v);
}

llama_flash_attn_type to_llama(FlashAttention choice) {
    switch (choice) {
        case FlashAttention::on:
            return LLAMA_FLASH_ATTN_TYPE_ENABLED;
        case FlashAttention::off:
            return LLAMA_FLASH_ATTN_TYPE_DISABLED;
        default:
            return LLAMA_FLASH_ATTN_TYPE_AUTO;
    }
}

llama_context_params to_llama(const ContextOptions& options, int n_threads) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = options.n_ctx;
    params.n_batch = options.n_batch;
    params.n_ubatch = options.n_ubatch;
    params.n_seq_max = options.n_seq_max;
    params.n_outputs_max = options.n_outputs_max;
    params.n_threads = n_threads;
    params.n_threads_batch = n_threads;
    params.type_k = options.type_k;
    params.type_v = options.type_v;
    params.kv_unified = options.kv_unified;
    params.swa_full = options.swa_full;
    if (options.mtp) params.ctx_type = LLAMA_CONTEXT_TYPE_MTP;
    return params;
}

}  // namespace

Context::Context(std::shared_ptr<Model> model, std::shared_ptr<ThreadPool> pool,
                 const ContextOptions& options, EvalHook* hook,
                 std::shared_ptr<const StopFlag> stop)
    : model_(std::move(model)),
      pool_(std::move(pool)),
      options_(options),
      hook_(hook),
      stop_(std::move(stop)) {
    check_options(*model_, options_);
    llama_context_params params = to_llama(options_, pool_->n_threads());
    params.flash_attn_type =
        to_llama(options_.flash_attention.value_or(model_->options().flash_attention));
    if (hook_ != nullptr || options_.leave_logits || model_->stream() != nullptr) {
        params.cb_eval = on_eval;
        params.cb_eval_user_data = this;
    }
    params.abort_callback = on_abort_check;
    params.abort_callback_data = this;
    drain_log();
    try {
        guarded([&] { context_.reset(llama_init_from_model(model_->get(), params)); });
    } catch (const GgmlAbort& abort) {
        fail<ModelError>(model_->path(), ": llama.cpp cannot make a context: ", abort.what());
    }
    if (!context_) {
        fail<ModelError>(model_->path(), ": llama.cpp cannot make a context of ", options_.n_ctx,
                         " tokens: ", last_errors());
    }
    check_cache_rotation(*model_, context_.get(), options_.type_k, options_.type_v);
    llama_attach_threadpool(context_.get(), pool_->get(), pool_->get());
    if (options_.leave_logits) host_logits_.replace_buffer(context_.get(), host_logits_bytes());
}

size_t Context::host_logits_bytes() const {
    const uint32_t n_outputs = std::max(max_outputs(), options_.n_seq_max);
    return size_t{n_outputs} * static_cast<size_t>(model_->n_vocab()) * sizeof(float);
}

bool Context::on_eval(ggml_tensor* node, bool ask, void* self) {
    auto* context = static_cast<Context*>(self);
    if (context->options_.leave_logits) {
        context->host_logits_.forget(context->context_.get());
    }
    // Wanted, and then refused: so a computation ends here, on a GPU too.
    if (context->is_over()) return ask;
    try {
        return ask ? context->ask(node) : context->show(node);
    } catch (...) {
        // Not through ggml's frames.
        context->hook_error_ = std::current_exception();
        return ask;
    }
}

// The streamed weight that a node is a product of; null: it is none.
const ggml_tensor* Context::streamed_weight(const ggml_tensor* node) const {
    const bool is_product =
        node->op == GGML_OP_MUL_MAT_ID || (is_taken_ && node->src[0] != nullptr);
    if (!is_product || model_->stream() == nullptr) return nullptr;
    return model_->stream()->has(node->src[0]) ? node->src[0] : nullptr;
}

// The backend is to compute the graph up to this node, and then to show it.
bool Context::ask(ggml_tensor* node) {
    hook_wants_ = hook_ != nullptr && hook_->wants(node);
    is_taken_ = products_.take(node);
    const ggml_tensor* weight = streamed_weight(node);
    // What we compute ourselves needs it only when the nodes before it are done.
    if (weight != nullptr && !is_taken_) model_->stream()->fetch(weight);
    return is_taken_ || hook_wants_ || weight != nullptr;
}

bool Context::show(ggml_tensor* node) {
    const ggml_tensor* weight = streamed_weight(node);
    if (weight != nullptr && is_taken_) model_->stream()->fetch(weight);
    products_.compute(node);
    if (weight != nullptr) model_->stream()->give_back(weight);
    return !hook_wants_ || hook_->observe(node);
}

bool Context::on_abort_check(void* self) {
    return static_cast<const Context*>(self)->is_over();
}

void Context::decode(Batch& batch) {
    if (batch.n_tokens() < 1 || batch.n_tokens() > options_.n_batch) {
        fail<InvalidArgument>("a batch of ", batch.n_tokens(), " tokens: expected 1 to ",
                              options_.n_batch);
    }
    if (batch.n_outputs() > max_outputs()) {
        fail<InvalidArgument>("a batch with ", batch.n_outputs(), " outputs: expected at most ",
                              max_outputs());
    }
    if (stop_ && stop_->is_set()) fail<Cancelled>("the computation was stopped");
    hook_error_ = nullptr;
    int32_t status = 0;
    try {
        guarded([&] { status = llama_decode(context_.get(), batch.view()); });
        products_.give_back();
    } catch (const GgmlAbort& abort) {
        products_.give_back();
        fail<ModelError>(model_->path(), ": llama.cpp cannot compute: ", abort.what());
    }
    if (hook_error_) std::rethrow_exception(hook_error_);
    if (stop_ && stop_->is_set()) fail<Cancelled>("the computation was stopped");
    if (status != 0) {
        fail<ModelError>(model_->path(), ": llama_decode returned ", status, ": ", last_errors());
    }
}

ggml_cgraph* Context::largest_graph() {
    const uint32_t n_seqs = std::min(options_.n_seq_max, options_.n_ubatch);
    ggml_cgraph* graph = nullptr;
    try {
        guarded([&] {
            graph =
                llama_graph_reserve(context_.get(), options_.n_ubatch, n_seqs, options_.n_ubatch);
        });
    } catch (const GgmlAbort& abort) {
        fail<ModelError>(model_->path(), ": llama.cpp cannot compute it: ", abort.what());
    }
    return graph;
}

void Context::clear_memory() {
    llama_memory_clear(llama_get_memory(context_.get()), true);
}

const float* Context::logits(int32_t i) const {
    if (options_.leave_logits) fail<InvalidArgument>("this context leaves logits where they are");
    const float* row = llama_get_logits_ith(context_.get(), i);
    if (row == nullptr) fail<InvalidArgument>("token ", i, " of the batch was no output");
    return row;
}

}  // namespace apex
