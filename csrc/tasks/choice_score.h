// Log-probabilities of the answers to many tasks.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "model/context.h"
#include "tasks/choice_planner.h"
#include "tasks/choice_tree.h"

namespace apex {

struct ChoiceOptions {
    uint32_t n_ubatch = 512;  // tokens computed at once
    ggml_type type_k = GGML_TYPE_F16;
    ggml_type type_v = GGML_TYPE_F16;
    // Tokens remembered at once, at least those of the largest task. 0: chosen.
    uint32_t n_ctx = 0;
    uint64_t max_state_bytes = uint64_t{1} << 30;  // for recurrent layers' states
};

// Sequences one after the other: sequence i has tokens [sequence_begin[i], sequence_begin[i + 1])
// of which those from its scored_begin[i]-th on are scored; task t has sequences
// [task_begin[t], task_begin[t + 1]).
struct ChoiceTasks {
    std::vector<llama_token> tokens;
    std::vector<int64_t> sequence_begin;
    std::vector<int64_t> scored_begin;
    std::vector<int64_t> task_begin;
};

// Tasks are computed in groups, always the same ones for the same tasks, model and options. Which
// are finished, and the log-probabilities of their tokens; the others' are 0.
struct FinishedGroups {
    std::vector<uint8_t> groups;
    std::vector<double> log_probs;
};

class ChoiceScorer {
  public:
    ChoiceScorer(std::shared_ptr<Model> model, int n_threads, const ChoiceOptions& options,
                 std::shared_ptr<const StopFlag> stop);

    // ln p of every scored token given the tokens before it, in order; NaN where the logits were
    // not finite. Throws InvalidArgument for tasks that are not as described above, ModelError for
    // a model that cannot do it, Cancelled. before: what `finished` said of an earlier call that
    // was stopped, for the same tasks, model and options; empty for a fresh start.
    std::vector<double> score(const ChoiceTasks& tasks, const FinishedGroups& before = {});

    // What a call under way has finished; from any thread.
    FinishedGroups finished() const;

    // For progress, from any thread: tokens computed so far, and in all (shared ones once).
    uint64_t n_tokens_done() const { return n_tokens_done_.load(std::memory_order_relaxed); }
    uint64_t n_tokens() const { return n_tokens_.load(std::memory_order_relaxed); }
    uint64_t n_steps() const { return n_steps_.load(std::memory_order_relaxed); }

  private:
    struct Lane;
    void run(std::vector<ChoiceTree> trees, std::vector<double>& log_probs);
    void take_over(const FinishedGroups& before, size_t n_terms);
    std::vector<uint8_t> groups_done(size_t n_groups);
    void finish_group(size_t group, const std::vector<ChoiceTree>& trees,
                      const std::vector<double>& log_probs);
    void run_group(Lane& lane, const std::vector<ChoiceTree>& trees, const ChoiceLimits& limits,
                   std::vector<double>& log_probs);

    std::shared_ptr<Model> model_;
    int n_threads_;
    ChoiceOptions options_;
    std::shared_ptr<const StopFlag> stop_;
    std::atomic<uint64_t> n_tokens_done_{0};
    std::atomic<uint64_t> n_tokens_{0};
    std::atomic<uint64_t> n_steps_{0};
    mutable std::mutex finished_mutex_;
    FinishedGroups finished_;
};

}  // namespace apex
