#include "bench/speed.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/abort_guard.h"
#include "core/error.h"

namespace apex {
namespace {

constexpr int kMostRepetitions = 100000;  // a typing error, not a wish

// Each token of a context costs memory, used or not: some 50 bytes beside the cache itself.
constexpr int64_t kLongestBeyond = 1 << 20;

void check_counts(const Model& model, const SpeedOptions& options) {
    if (options.n_prompt < 0 || options.n_gen < 0 || options.n_depth < 0 ||
        (options.n_prompt == 0 && options.n_gen == 0)) {
        fail<InvalidArgument>("a speed test reads or generates at least one token, found prompt ",
                              options.n_prompt, ", generate ", options.n_gen, ", depth ",
                              options.n_depth);
    }
    int64_t limit = model.n_ctx_train();
    if (options.beyond_context) limit = std::max(limit, kLongestBeyond);
    for (const int64_t n : {options.n_prompt, options.n_gen, options.n_depth}) {
        if (n <= limit && options.n_prompt + options.n_gen + options.n_depth <= limit) continue;
        fail<InvalidArgument>(
            model.path(), ": a test of ", options.n_prompt, " prompt, ", options.n_gen,
            " generated and ", options.n_depth, " depth tokens is longer than the ",
            options.beyond_context ? "longest that is allowed, " : "model's context of ", limit,
            "; ask for fewer tokens",
            options.beyond_context ? "" : ", or pass `beyond_context=True`");
    }
    if (options.repetitions < 1 || options.repetitions > kMostRepetitions) {
        fail<InvalidArgument>("repetitions: expected 1 to ", kMostRepetitions, ", found ",
                              options.repetitions);
    }
}

const SpeedOptions& checked(const Model& model, const SpeedOptions& options) {
    if (model.options().vocab_only) {
        fail<InvalidArgument>(model.path(), " was loaded for its vocabulary only");
    }
    check_counts(model, options);
    if (model.n_vocab() < 1) fail<ModelError>(model.path(), ": the model has no vocabulary");
    if (model.has_encoder()) {
        fail<ModelError>(model.path(),
                         ": the model has an encoder, and only decoders can be timed");
    }
    return options;
}

ContextOptions context_options(const SpeedOptions& options) {
    ContextOptions result;
    result.n_ctx = static_cast<uint32_t>(options.n_prompt + options.n_gen + options.n_depth);
    result.n_batch = options.n_batch;
    result.n_ubatch = options.n_ubatch;
    result.type_k = options.type_k;
    result.type_v = options.type_v;
    result.flash_attention = options.flash_attention;
    result.swa_full = false;
    return result;
}

}  // namespace

SpeedTest::SpeedTest(std::shared_ptr<Model> model, const SpeedOptions& options,
                     std::shared_ptr<const StopFlag> stop)
    : options_(checked(*model, options)),
      context_(model, std::make_shared<ThreadPool>(options.n_threads), context_options(options),
               nullptr, std::move(stop)) {
    if (llama_get_memory(context_.get()) == nullptr) {
        fail<ModelError>(model->path(),
                         ": the model keeps no memory of a text (an encoder or a "
                         "diffusion model), and only decoders can be timed");
    }
    const int64_t timed = options.n_prompt + options.n_gen;
    const int64_t warm_up = options.warm_up ? options.n_prompt + (options.n_gen > 0 ? 1 : 0) : 0;
    n_tokens_ = warm_up + options.n_depth + timed * options.repetitions;
}

std::vector<int64_t> SpeedTest::run() {
    using Clock = std::chrono::steady_clock;
    llama_memory_clear(llama_get_memory(context_.get()), false);
    if (options_.warm_up) {
        read_prompt(options_.n_prompt);
        generate(std::min<int64_t>(options_.n_gen, 1));
    }
    std::vector<int64_t> samples;
    for (int i = 0; i < options_.repetitions; ++i) {
        llama_memory_clear(llama_get_memory(context_.get()), false);
        position_ = 0;
        fill_depth();
        const auto start = Clock::now();
        read_prompt(options_.n_prompt);
        generate(options_.n_gen);
        samples.push_back(
            std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
    }
    const float* logits = context_.logits(-1);
    is_finite_ = std::all_of(logits, logits + context_.model().n_vocab(),
                             [](float logit) { return std::isfinite(logit); });
    return samples;
}

void SpeedTest::read_prompt(int64_t n_tokens) {
    const int64_t end = position_ + n_tokens;
    while (position_ < end) {
        const int64_t n = std::min<int64_t>(end - position_, options_.n_batch);
        batch_.clear();
        for (int64_t i = 0; i < n; ++i) add_random_token(i + 1 == n);
        decode();
    }
    llama_synchronize(context_.get());
}

void SpeedTest::generate(int64_t n_tokens) {
    for (int64_t i = 0; i < n_tokens; ++i) {
        batch_.clear();
        add_random_token(true);
        decode();
        llama_synchronize(context_.get());
    }
}

// Computed once and put back for the other repetitions, where the model's memory allows it.
void SpeedTest::fill_depth() {
    if (options_.n_depth == 0) return;
    llama_context* context = context_.get();
    if (!depth_state_.empty()) {
        size_t n_read = 0;
        guarded([&] {
            n_read = llama_state_seq_set_data(context, depth_state_.data(), depth_state_.size(), 0);
        });
        if (n_read == depth_state_.size()) {
            position_ = static_cast<llama_pos>(options_.n_depth);
            return;
        }
        llama_memory_clear(llama_get_memory(context), false);
        n_tokens_ += options_.n_depth;
    }
    read_prompt(options_.n_depth);
    depth_state_.resize(llama_state_seq_get_size(context, 0));
    depth_state_.resize(
        llama_state_seq_get_data(context, depth_state_.data(), depth_state_.size(), 0));
}

void SpeedTest::decode() {
    context_.decode(batch_);
    tokens_done_.fetch_add(static_cast<int64_t>(batch_.n_tokens()), std::memory_order_relaxed);
}

// A text begins as the model wants it.
void SpeedTest::add_random_token(bool is_output) {
    const llama_vocab* vocab = context_.model().vocab();
    const auto n_vocab = static_cast<uint32_t>(context_.model().n_vocab());
    auto token = static_cast<llama_token>(random_() % n_vocab);
    if (position_ == 0 && llama_vocab_get_add_bos(vocab) && llama_vocab_bos(vocab) >= 0) {
        token = llama_vocab_bos(vocab);
    }
    batch_.add(token, position_, 0, is_output);
    ++position_;
}

}  // namespace apex
