// How many tokens a second a model reads and writes, measured as llama-bench measures it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "model/context.h"

namespace apex {

// One test: n_prompt tokens at once ("pp"), then n_gen tokens one at a time ("tg"), both after
// n_depth tokens that are not timed.
struct SpeedOptions {
    int64_t n_prompt = 512;
    int64_t n_gen = 0;
    int64_t n_depth = 0;
    uint32_t n_batch = 2048;
    uint32_t n_ubatch = 512;
    ggml_type type_k = GGML_TYPE_F16;
    ggml_type type_v = GGML_TYPE_F16;
    std::optional<FlashAttention> flash_attention{};  // none: as the model was loaded
    int n_threads = 1;
    int repetitions = 5;
    bool warm_up = true;
    bool beyond_context = false;  // more tokens than the model was made for may be asked
};

// The procedure of tools/llama-bench at the pinned commit: a context as large as the test, one
// run to warm up, then for each repetition an emptied memory, random tokens, a batch of
// n_batch at a time with logits for its last token, generation of one token a decode.
class SpeedTest {
  public:
    // Throws InvalidArgument for options that make no test or exceed the model's context,
    // ModelError for a model that keeps no memory of a text.
    SpeedTest(std::shared_ptr<Model> model, const SpeedOptions& options,
              std::shared_ptr<const StopFlag> stop);

    // Nanoseconds of each repetition. Throws Cancelled, ModelError.
    std::vector<int64_t> run();

    // Were the last logits of the run numbers? Broken weights are as fast as others.
    bool is_finite() const { return is_finite_; }

    // Tokens computed so far and in all, warm-up and depth included; from any thread.
    int64_t tokens_done() const { return tokens_done_.load(std::memory_order_relaxed); }
    int64_t n_tokens() const { return n_tokens_.load(std::memory_order_relaxed); }

  private:
    void read_prompt(int64_t n_tokens);
    void generate(int64_t n_tokens);
    void fill_depth();
    void decode();
    void add_random_token(bool is_output);

    SpeedOptions options_;
    Context context_;
    Batch batch_;
    llama_pos position_ = 0;
    std::mt19937 random_{0};
    bool is_finite_ = true;
    std::vector<uint8_t> depth_state_;  // what fill_depth computed, to be put back
    std::atomic<int64_t> tokens_done_{0};
    std::atomic<int64_t> n_tokens_{0};
};

}  // namespace apex
