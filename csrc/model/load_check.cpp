#include "model/load_check.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <vector>

#include "core/abort_guard.h"
#include "core/error.h"
#include "core/gguf_file.h"
#include "core/log.h"
#include "llama-cpp.h"
#include "llama.h"

namespace apex {
namespace {

constexpr int32_t kMaxTokens = 512;

// llama.cpp's own limits, which it enforces by aborting (src/llama-model.cpp, load_hparams).
constexpr uint64_t kMaxBlocks = 512;

std::string last_errors() {
    std::string text;
    for (const LogLine& line : drain_log()) {
        if (line.level == GGML_LOG_LEVEL_ERROR) text += (text.empty() ? "" : "; ") + line.text;
    }
    return text.empty() ? "no reason was logged" : text;
}

uint64_t unsigned_setting(const GgufHeader& header, const std::string& key, uint64_t fallback) {
    const GgufKeyValue* pair = header.find(key);
    if (pair == nullptr || pair->is_array) return fallback;
    const auto* value = std::get_if<uint64_t>(&pair->values[0]);
    return value == nullptr ? fallback : *value;
}

void check_settings(const std::string& path) {
    const GgufFile file(path);
    if (!file.has_data()) {
        fail<GgufError>(path, ": holds the header only, there is nothing to load");
    }
    const GgufKeyValue* name = file.header().find("general.architecture");
    const auto* architecture =
        name == nullptr || name->is_array ? nullptr : std::get_if<std::string>(&name->values[0]);
    if (architecture == nullptr) fail<GgufError>(path, ": has no general.architecture");
    const uint64_t blocks = unsigned_setting(file.header(), *architecture + ".block_count", 0);
    if (blocks < 1 || blocks > kMaxBlocks) {
        fail<GgufError>(path, ": ", *architecture, ".block_count is ", blocks, ", expected 1 to ",
                        kMaxBlocks);
    }
    const uint64_t experts = unsigned_setting(file.header(), *architecture + ".expert_count", 0);
    const uint64_t used = unsigned_setting(file.header(), *architecture + ".expert_used_count", 0);
    if (used > experts) {
        fail<GgufError>(path, ": expert_used_count ", used, " exceeds expert_count ", experts);
    }
}

llama_model_ptr load(const std::string& path) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    llama_model_ptr model;
    try {
        guarded([&] { model.reset(llama_model_load_from_file(path.c_str(), params)); });
    } catch (const GgmlAbort& abort) {
        fail<GgufError>(path, ": llama.cpp cannot load it: ", abort.what());
    }
    if (!model) fail<GgufError>(path, ": llama.cpp cannot load it: ", last_errors());
    return model;
}

std::vector<llama_token> tokenize(const llama_vocab* vocab, const std::string& text) {
    std::vector<llama_token> tokens(text.size() + 2);
    const int32_t n =
        llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                       static_cast<int32_t>(tokens.size()), true, true);
    tokens.resize(static_cast<size_t>(std::clamp(n, 0, kMaxTokens)));
    if (tokens.size() < 2) fail<InvalidArgument>("text: expected at least two tokens");
    return tokens;
}

double negative_log_likelihood(const float* logits, int32_t n_vocab, llama_token token) {
    double largest = logits[0];
    for (int32_t i = 1; i < n_vocab; ++i) largest = std::max<double>(largest, logits[i]);
    double sum = 0;
    for (int32_t i = 0; i < n_vocab; ++i) sum += std::exp(logits[i] - largest);
    return largest + std::log(sum) - logits[token];
}

double mean_nll(llama_context* context, std::vector<llama_token>& tokens, int32_t n_vocab) {
    const auto n = static_cast<int32_t>(tokens.size());
    llama_batch batch = llama_batch_init(n, 0, 1);
    for (int32_t i = 0; i < n; ++i) {
        batch.token[i] = tokens[static_cast<size_t>(i)];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = i + 1 < n;
    }
    batch.n_tokens = n;
    const int32_t status = llama_decode(context, batch);
    llama_batch_free(batch);
    if (status != 0) fail<GgufError>("llama_decode returned ", status, ": ", last_errors());
    double sum = 0;
    for (int32_t i = 0; i + 1 < n; ++i) {
        sum += negative_log_likelihood(llama_get_logits_ith(context, i), n_vocab,
                                       tokens[static_cast<size_t>(i) + 1]);
    }
    return sum / (n - 1);
}

}  // namespace

void initialize_llama() {
    static std::once_flag once;
    std::call_once(once, [] {
        install_abort_hook();
        llama_log_set(log_sink, nullptr);
        llama_backend_init();
    });
}

LoadCheck load_check(const std::string& path, const std::string& text, int n_threads) {
    initialize_llama();
    check_settings(path);
    drain_log();
    const llama_model_ptr model = load(path);
    const llama_vocab* vocab = llama_model_get_vocab(model.get());
    std::vector<llama_token> tokens = tokenize(vocab, text);

    llama_context_params params = llama_context_default_params();
    params.n_ctx = kMaxTokens;
    params.n_batch = kMaxTokens;
    params.n_ubatch = kMaxTokens;
    params.n_threads = n_threads;
    params.n_threads_batch = n_threads;
    const llama_context_ptr context(llama_init_from_model(model.get(), params));
    if (!context) fail<GgufError>(path, ": llama.cpp cannot make a context: ", last_errors());

    LoadCheck result;
    char description[256] = {};
    llama_model_desc(model.get(), description, sizeof(description));
    result.description = description;
    result.n_parameters = llama_model_n_params(model.get());
    result.n_vocab = llama_vocab_n_tokens(vocab);
    result.n_tokens = static_cast<int32_t>(tokens.size());
    result.mean_nll = mean_nll(context.get(), tokens, result.n_vocab);
    if (!std::isfinite(result.mean_nll)) {
        fail<GgufError>(path, ": computes logits that are not finite");
    }
    return result;
}

}  // namespace apex
