#include "model/load_check.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/abort_guard.h"
#include "core/error.h"
#include "model/context.h"
#include "model/vocabulary.h"

namespace apex {
namespace {

constexpr size_t kMaxTokens = 512;

using Tokens = std::vector<llama_token>;

// Outputs of several positions, looked at one by one.
class OutputJudge {
  public:
    void look(const float* values, int32_t n) {
        const auto [least, most] = std::minmax_element(values, values + n);
        varies_ = varies_ || n == 1 || *least != *most;
        finite_ =
            finite_ && std::all_of(values, values + n, [](float v) { return std::isfinite(v); });
    }
    bool varies() const { return varies_; }
    bool finite() const { return finite_; }

  private:
    bool varies_ = false;
    bool finite_ = true;
};

double negative_log_likelihood(const float* logits, int32_t n_vocab, llama_token token) {
    double largest = logits[0];
    for (int32_t i = 1; i < n_vocab; ++i) largest = std::max<double>(largest, logits[i]);
    double sum = 0;
    for (int32_t i = 0; i < n_vocab; ++i) sum += std::exp(logits[i] - largest);
    return largest + std::log(sum) - logits[token];
}

Tokens tokens_of(const Model& model, const std::string& text) {
    const int32_t n_trained = llama_model_n_ctx_train(model.get());
    const size_t n_most = n_trained > 0 ? std::min<size_t>(kMaxTokens, n_trained) : kMaxTokens;
    Tokens tokens;
    if (llama_vocab_type(model.vocab()) == LLAMA_VOCAB_TYPE_NONE) {
        if (model.n_vocab() < 1) fail<ModelError>(model.path(), ": has no tokens to compute");
        constexpr int32_t kStep = 7919;  // a prime: ids from all over the embedding
        for (size_t i = 0; i < n_most; ++i) {
            tokens.push_back(static_cast<llama_token>(i * kStep % model.n_vocab()));
        }
        return tokens;
    }
    tokens = tokenize(model.vocab(), text, true, true);
    tokens.resize(std::min(tokens.size(), n_most));
    if (tokens.size() < 2) fail<InvalidArgument>("text: expected at least two tokens");
    return tokens;
}

Batch batch_of(const Tokens& tokens) {
    Batch batch;
    for (size_t i = 0; i < tokens.size(); ++i) {
        batch.add(tokens[i], static_cast<llama_pos>(i), 0, true);
    }
    return batch;
}

// Mean over targets[i + 1] after input i; the last row has no target and is only looked at.
double mean_nll(const Context& context, const Tokens& targets, OutputJudge& judge) {
    const int32_t n_vocab = context.model().n_vocab();
    double sum = 0;
    for (size_t i = 0; i < targets.size(); ++i) {
        const float* logits = context.logits(static_cast<int32_t>(i));
        judge.look(logits, n_vocab);
        if (i + 1 < targets.size()) sum += negative_log_likelihood(logits, n_vocab, targets[i + 1]);
    }
    return sum / static_cast<double>(targets.size() - 1);
}

void encode(Context& context, const Tokens& tokens) {
    Batch batch = batch_of(tokens);
    int32_t status = 0;
    try {
        guarded([&] { status = llama_encode(context.get(), batch.view()); });
    } catch (const GgmlAbort& abort) {
        fail<ModelError>(context.model().path(), ": llama.cpp cannot compute: ", abort.what());
    }
    if (status != 0) {
        fail<ModelError>(context.model().path(), ": llama_encode returned ", status, ": ",
                         last_errors());
    }
}

// The decoder is asked for the text that the encoder read.
double decode_after_encoder(Context& context, const Tokens& tokens, OutputJudge& judge) {
    encode(context, tokens);
    const llama_model* model = context.model().get();
    llama_token start = llama_model_decoder_start_token(model);
    if (start == LLAMA_TOKEN_NULL) start = llama_vocab_bos(context.model().vocab());
    if (start == LLAMA_TOKEN_NULL) start = 0;
    Tokens shifted{start};
    shifted.insert(shifted.end(), tokens.begin(), tokens.end() - 1);
    Batch batch = batch_of(shifted);
    context.decode(batch);
    return mean_nll(context, shifted, judge);
}

void look_at_embeddings(Context& context, const Tokens& tokens, OutputJudge& judge) {
    llama_set_embeddings(context.get(), true);
    if (context.model().has_encoder()) {
        encode(context, tokens);
    } else {
        Batch batch = batch_of(tokens);
        context.decode(batch);
    }
    const llama_model* model = context.model().get();
    if (const float* pooled = llama_get_embeddings_seq(context.get(), 0)) {
        const bool ranks = llama_pooling_type(context.get()) == LLAMA_POOLING_TYPE_RANK;
        const auto n = static_cast<int32_t>(llama_model_n_cls_out(model));
        judge.look(pooled, ranks ? n : llama_model_n_embd_out(model));
        return;
    }
    for (size_t i = 0; i < tokens.size(); ++i) {
        const float* row = llama_get_embeddings_ith(context.get(), static_cast<int32_t>(i));
        if (row == nullptr) fail<ModelError>(context.model().path(), ": computes no output");
        judge.look(row, llama_model_n_embd_out(model));
    }
}

// llama.cpp names the logits so in every graph that has them.
bool has_logits(Context& context) {
    ggml_cgraph* graph = context.largest_graph();
    return graph != nullptr && ggml_graph_get_tensor(graph, "result_output") != nullptr;
}

}  // namespace

LoadCheck load_check(const std::string& path, const std::string& text, int n_threads) {
    const std::shared_ptr<Model> model = Model::load(path, {});
    const Tokens tokens = tokens_of(*model, text);
    Context context(model, std::make_shared<ThreadPool>(n_threads), {});
    const bool decodes = llama_model_has_decoder(model->get());
    const bool judged = llama_vocab_type(model->vocab()) != LLAMA_VOCAB_TYPE_NONE;

    LoadCheck result;
    result.description = model->description();
    result.n_parameters = llama_model_n_params(model->get());
    result.n_vocab = model->n_vocab();
    result.n_tokens = static_cast<int32_t>(tokens.size());
    OutputJudge judge;
    if (model->has_encoder() && decodes) {
        result.kind = "encoder-decoder";
        const double nll = decode_after_encoder(context, tokens, judge);
        if (judged) result.mean_nll = nll;
    } else if (!model->has_encoder() && has_logits(context)) {
        result.kind = "language model";
        Batch batch = batch_of(tokens);
        context.decode(batch);
        const double nll = mean_nll(context, tokens, judge);
        if (judged) result.mean_nll = nll;
    } else {
        result.kind = "encoder";
        look_at_embeddings(context, tokens, judge);
    }
    if (!judge.finite()) fail<ModelError>(path, ": computes outputs that are not finite");
    result.all_outputs_equal = !judge.varies();
    return result;
}

}  // namespace apex
