#include "model/load_check.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "model/context.h"
#include "model/vocabulary.h"

namespace apex {
namespace {

constexpr size_t kMaxTokens = 512;

double negative_log_likelihood(const float* logits, int32_t n_vocab, llama_token token) {
    double largest = logits[0];
    for (int32_t i = 1; i < n_vocab; ++i) largest = std::max<double>(largest, logits[i]);
    double sum = 0;
    for (int32_t i = 0; i < n_vocab; ++i) sum += std::exp(logits[i] - largest);
    return largest + std::log(sum) - logits[token];
}

double mean_nll(Context& context, const std::vector<llama_token>& tokens) {
    Batch batch;
    for (size_t i = 0; i < tokens.size(); ++i) {
        batch.add(tokens[i], static_cast<llama_pos>(i), 0, i + 1 < tokens.size());
    }
    context.decode(batch);
    double sum = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
        sum += negative_log_likelihood(context.logits(static_cast<int32_t>(i)),
                                       context.model().n_vocab(), tokens[i + 1]);
    }
    return sum / static_cast<double>(tokens.size() - 1);
}

}  // namespace

LoadCheck load_check(const std::string& path, const std::string& text, int n_threads) {
    const std::shared_ptr<Model> model = Model::load(path, {});
    std::vector<llama_token> tokens = tokenize(model->vocab(), text, true, true);
    tokens.resize(std::min(tokens.size(), kMaxTokens));
    if (tokens.size() < 2) fail<InvalidArgument>("text: expected at least two tokens");
    Context context(model, std::make_shared<ThreadPool>(n_threads), {});

    LoadCheck result;
    result.description = model->description();
    result.n_parameters = llama_model_n_params(model->get());
    result.n_vocab = model->n_vocab();
    result.n_tokens = static_cast<int32_t>(tokens.size());
    result.mean_nll = mean_nll(context, tokens);
    if (!std::isfinite(result.mean_nll)) {
        fail<ModelError>(path, ": computes logits that are not finite");
    }
    return result;
}

}  // namespace apex
