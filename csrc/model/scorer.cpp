#include "model/scorer.h"

#include <algorithm>

#include "core/error.h"

namespace apex {
namespace {

// The vocabulary that all of them have.
int64_t common_n_vocab(const LogitsSource* reference,
                       const std::vector<ScoredSource>& candidates) {
    if (reference == nullptr && candidates.empty()) {
        fail<InvalidArgument>("there is no model to evaluate");
    }
    const int64_t n_vocab =
        reference != nullptr ? reference->n_vocab() : candidates.front().source->n_vocab();
    for (const ScoredSource& candidate : candidates) {
        if (candidate.source->n_vocab() == n_vocab) continue;
        fail<InvalidArgument>("vocabularies differ: ", n_vocab, " and ",
                              candidate.source->n_vocab(),
                              " tokens; these are not quantizations of one model");
    }
    return n_vocab;
}

void check_shape(const ChunkShape& shape, size_t n_tokens) {
    // Below 4 tokens there is no scored position.
    if (shape.n_ctx < 4 || shape.n_sequences < 1 || shape.n_positions < 1) {
        fail<InvalidArgument>("expected a context of at least 4 tokens, found ", shape.n_ctx);
    }
    const auto n_ctx = static_cast<size_t>(shape.n_ctx);
    if (n_tokens < n_ctx || n_tokens % n_ctx != 0) {
        fail<InvalidArgument>("expected whole chunks of ", n_ctx, " tokens, found ", n_tokens);
    }
}

}  // namespace

Scorer::Scorer(std::unique_ptr<LogitsSource> reference, std::vector<ScoredSource> candidates,
               const ChunkShape& shape, ChunkTokens tokens, std::shared_ptr<ThreadPool> pool)
    : reference_(std::move(reference)),
      candidates_(std::move(candidates)),
      shape_(shape),
      tokens_(std::move(tokens)),
      pool_(std::move(pool)) {
    n_vocab_ = common_n_vocab(reference_.get(), candidates_);
    check_shape(shape_, tokens_->size());
    n_chunks_ = static_cast<int32_t>(tokens_->size() / static_cast<size_t>(shape_.n_ctx));
    const auto n_scored = static_cast<size_t>(n_chunks_) * static_cast<size_t>(shape_.n_scored());
    candidate_scores_.resize(candidates_.size());
    agreement_.resize(candidates_.size());
    finished_agreement_.resize(candidates_.size());
    for (TokenScores& scores : candidate_scores_) {
        scores.nll.resize(n_scored);
        scores.is_finite.resize(n_scored);
        if (!reference_) continue;
        scores.kld.resize(n_scored);
        scores.is_same_top.resize(n_scored);
    }
    if (reference_) {
        reference_scores_.nll.resize(n_scored);
        reference_scores_.top_probability.resize(n_scored);
        reference_scores_.is_finite.resize(n_scored);
    }
}

double Scorer::progress() const {
    const int64_t n = n_to_compute_.load();
    return n == 0 ? 0 : double(n_computed_.load()) / double(n);
}

size_t Scorer::n_reference_finished() const {
    return static_cast<size_t>(n_chunks_done_.load()) * static_cast<size_t>(shape_.n_scored());
}

size_t Scorer::n_finished(size_t i) const {
    // A group of chunks is computed by all or none.
    const int64_t limit = std::max(candidates_.at(i).n_chunks, 0);
    const int64_t n_groups = (limit + shape_.n_sequences - 1) / shape_.n_sequences;
    const int64_t n_chunks =
        std::min<int64_t>(n_groups * shape_.n_sequences, n_chunks_done_.load());
    return static_cast<size_t>(n_chunks) * static_cast<size_t>(shape_.n_scored());
}

RouterCounts Scorer::router_agreement(size_t i) const {
    const std::lock_guard<std::mutex> lock(finished_mutex_);
    return finished_agreement_.at(i);
}

void Scorer::run() {
    const std::vector<Step> steps = make_steps(shape_, n_chunks_);
    int64_t n_to_compute = 0;
    for (const Step& step : steps) {
        n_to_compute += reference_ ? 1 : 0;
        for (size_t i = 0; i < candidates_.size(); ++i) n_to_compute += is_active(i, step);
    }
    n_to_compute_ = n_to_compute;
    for (const Step& step : steps) {
        compute(step);
        if (step.n_outputs() > 0) score(step);
        if (step.end == shape_.n_computed()) finish_chunks(step);
    }
}

void Scorer::compute(const Step& step) {
    if (reference_) {
        reference_->compute(step);
        n_computed_.fetch_add(1);
    }
    for (size_t i = 0; i < candidates_.size(); ++i) {
        std::unique_ptr<LogitsSource>& source = candidates_[i].source;
        if (!is_active(i, step)) {
            source.reset();
            continue;
        }
        source->compute(step);
        n_computed_.fetch_add(1);
        if (!reference_ || reference_->routes() == nullptr || source->routes() == nullptr) continue;
        count_agreement(*reference_->routes(), *source->routes(), agreement_[i]);
    }
}

void Scorer::finish_chunks(const Step& step) {
    const std::lock_guard<std::mutex> lock(finished_mutex_);
    finished_agreement_ = agreement_;
    n_chunks_done_ = step.first_chunk + step.n_chunks;
}

void Scorer::score(const Step& step) {
    std::vector<size_t> active;
    for (size_t i = 0; i < candidates_.size(); ++i) {
        if (is_active(i, step)) active.push_back(i);
    }
    std::atomic<int32_t> next{0};
    pool_->run([&](int, int) {
        PositionWork work;
        work.candidates = active;
        work.rows.resize(active.size());
        work.scores.resize(active.size());
        for (int32_t i = next.fetch_add(1); i < step.n_outputs(); i = next.fetch_add(1)) {
            score_position(step, i, work);
        }
    });
}

void Scorer::score_position(const Step& step, int32_t output, PositionWork& work) {
    const int32_t chunk = step.first_chunk + output / step.n_outputs_per_chunk();
    const int32_t position = step.first_output + output % step.n_outputs_per_chunk();
    const llama_token target =
        (*tokens_)[static_cast<size_t>(int64_t{chunk} * shape_.n_ctx + position + 1)];
    const int64_t index = int64_t{chunk} * shape_.n_scored() + (position - shape_.first_scored());
    const size_t n = work.candidates.size();
    for (size_t i = 0; i < n; ++i) {
        work.rows[i] = candidates_[work.candidates[i]].source->row(output);
    }
    if (reference_) {
        const float* row = reference_->row(output);
        const auto score = reference_->is_coded() ? score_rows_coded : score_rows;
        score(row, work.rows.data(), n, reference_->n_vocab(), target, &work.reference,
              work.scores.data(), work.scratch);
        if (observer_) observer_->observe(index, row, target);
    } else {
        for (size_t i = 0; i < n; ++i) {
            const LogitsSource& source = *candidates_[work.candidates[i]].source;
            work.scores[i] = score_row(work.rows[i], source.n_vocab(), target);
        }
    }
    keep(static_cast<size_t>(index), work);
}

void Scorer::keep(size_t index, const PositionWork& work) {
    if (reference_) {
        reference_scores_.nll[index] = work.reference.nll;
        reference_scores_.top_probability[index] = work.reference.top_probability;
        reference_scores_.is_finite[index] = work.reference.is_finite;
    }
    for (size_t i = 0; i < work.scores.size(); ++i) {
        TokenScores& kept = candidate_scores_[work.candidates[i]];
        const RowScore& score = work.scores[i];
        kept.nll[index] = score.nll;
        kept.is_finite[index] = score.is_finite;
        if (!reference_) continue;
        kept.kld[index] = score.kld;
        kept.is_same_top[index] = score.top == work.reference.top;
    }
}

}  // namespace apex
