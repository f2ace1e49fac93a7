// Log-probabilities of single tokens, taken from the logits where they are.
#pragma once

#include <memory>
#include <vector>

#include "model/eval_hook.h"
#include "model/thread_pool.h"
#include "tasks/choice_tree.h"

namespace apex {

class LogProbHook : public EvalHook {
  public:
    // The pool's threads share the rows where there are many logits.
    LogProbHook(int64_t n_vocab, std::shared_ptr<ThreadPool> pool)
        : n_vocab_(n_vocab), pool_(std::move(pool)) {}

    // What the next decode() shall give, one entry for each of its outputs, in their order: the
    // terms are valid until it returns. Results go to log_probs[term].
    struct Row {
        const ChoiceTerm* terms;
        size_t n_terms;
    };
    void expect(std::vector<Row> rows, double* log_probs);

    // Did the decode() give as many outputs as expected?
    bool complete() const { return next_row_ == rows_.size(); }

    bool wants(const ggml_tensor* node) override;
    bool observe(ggml_tensor* node) override;

  private:
    void take_rows(const float* logits, size_t n_rows);
    void take_row(const float* values, const Row& row) const;

    int64_t n_vocab_;
    std::shared_ptr<ThreadPool> pool_;
    std::vector<Row> rows_;
    size_t next_row_ = 0;
    double* log_probs_ = nullptr;
    std::vector<float> fetched_;  // rows that were on a device
};

}  // namespace apex
