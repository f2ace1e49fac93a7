#include "model/generate.h"

#include <algorithm>

#include "core/error.h"
#include "model/vocabulary.h"

namespace apex {
namespace {

void check(const Context& context, const std::vector<llama_token>& prompt,
           const SamplingOptions& options) {
    const auto n_ctx = static_cast<size_t>(context.options().n_ctx);
    if (prompt.empty()) fail<InvalidArgument>("prompt: expected at least one token");
    if (options.n_predict < 1) {
        fail<InvalidArgument>("n_predict: expected at least 1, found ", options.n_predict);
    }
    if (prompt.size() + static_cast<size_t>(options.n_predict) > n_ctx) {
        fail<InvalidArgument>("prompt of ", prompt.size(), " tokens and ", options.n_predict,
                              " to predict exceed the context of ", n_ctx);
    }
    if (!(options.temperature >= 0) || !(options.top_p > 0 && options.top_p <= 1) ||
        options.top_k < 0) {
        fail<InvalidArgument>("expected temperature >= 0, 0 < top_p <= 1 and top_k >= 0, found ",
                              options.temperature, ", ", options.top_p, ", ", options.top_k);
    }
    check_tokens(context.model().vocab(), prompt.data(), prompt.size());
}

llama_sampler_ptr make_sampler(const SamplingOptions& options) {
    llama_sampler_ptr chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    if (options.temperature == 0) {
        llama_sampler_chain_add(chain.get(), llama_sampler_init_greedy());
        return chain;
    }
    if (options.top_k > 0) {
        llama_sampler_chain_add(chain.get(), llama_sampler_init_top_k(options.top_k));
    }
    llama_sampler_chain_add(chain.get(), llama_sampler_init_top_p(options.top_p, 1));
    llama_sampler_chain_add(chain.get(), llama_sampler_init_temp(options.temperature));
    llama_sampler_chain_add(chain.get(), llama_sampler_init_dist(options.seed));
    return chain;
}

void decode_prompt(Context& context, const std::vector<llama_token>& prompt, Batch& batch) {
    const size_t n_batch = context.options().n_batch;
    for (size_t begin = 0; begin < prompt.size(); begin += n_batch) {
        const size_t end = std::min(begin + n_batch, prompt.size());
        batch.clear();
        for (size_t i = begin; i < end; ++i) {
            batch.add(prompt[i], static_cast<llama_pos>(i), 0, i + 1 == prompt.size());
        }
        context.decode(batch);
    }
}

}  // namespace

std::vector<llama_token> generate(Context& context, const std::vector<llama_token>& prompt,
                                  const SamplingOptions& options) {
    check(context, prompt, options);
    context.clear_memory();
    const llama_sampler_ptr sampler = make_sampler(options);
    Batch batch;
    decode_prompt(context, prompt, batch);
    std::vector<llama_token> tokens;
    while (true) {
        const llama_token token = llama_sampler_sample(sampler.get(), context.get(), -1);
        tokens.push_back(token);
        if (llama_vocab_is_eog(context.model().vocab(), token)) break;
        if (tokens.size() == static_cast<size_t>(options.n_predict)) break;
        batch.clear();
        batch.add(token, static_cast<llama_pos>(prompt.size() + tokens.size() - 1), 0, true);
        context.decode(batch);
    }
    return tokens;
}

}  // namespace apex
