#include "model/scorer.h"

#include <algorithm>

#include "core/error.h"
#include "model/row_scores.h"

namespace apex {
namespace {

void check_sources(const LogitsSource* reference,
                   const std::vector<std::unique_ptr<LogitsSource>>& candidates) {
    if (reference == nullptr && candidates.empty()) {
        fail<InvalidArgument>("there is no model to evaluate");
    }
    const int64_t n_vocab =
        reference != nullptr ? reference->n_vocab() : candidates.front()->n_vocab();
    for (const auto& candidate : candidates) {
        if (candidate->n_vocab() == n_vocab) continue;
        fail<InvalidArgument>("vocabularies differ: ", n_vocab, " and ", candidate->n_vocab(),
                              " tokens; these are not quantizations of one model");
    }
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

Scorer::Scorer(std::unique_ptr<LogitsSource> reference,
               std::vector<std::unique_ptr<LogitsSource>> candidates, const ChunkShape& shape,
               ChunkTokens tokens, std::shared_ptr<ThreadPool> pool)
    : reference_(std::move(reference)),
      candidates_(std::move(candidates)),
      shape_(shape),
      tokens_(std::move(tokens)),
      pool_(std::move(pool)) {
    check_sources(reference_.get(), candidates_);
    check_shape(shape_, tokens_->size());
    n_chunks_ = static_cast<int32_t>(tokens_->size() / static_cast<size_t>(shape_.n_ctx));
    const auto n_scored = static_cast<size_t>(n_chunks_) * static_cast<size_t>(shape_.n_scored());
    candidate_scores_.resize(candidates_.size());
    agreement_.resize(candidates_.size());
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
    return n_to_compute_ == 0 ? 0 : double(n_computed_.load()) / double(n_to_compute_);
}

void Scorer::run() {
    const std::vector<Step> steps = make_steps(shape_, n_chunks_);
    n_computed_ = 0;
    n_to_compute_ = int64_t(steps.size()) * int64_t(candidates_.size() + (reference_ ? 1 : 0));
    for (const Step& step : steps) {
        compute(step);
        if (step.n_outputs() > 0) score(step);
        if (step.end == shape_.n_computed()) n_chunks_done_ = step.first_chunk + step.n_chunks;
    }
}

void Scorer::compute(const Step& step) {
    if (reference_) {
        reference_->compute(step);
        n_computed_.fetch_add(1);
    }
    for (size_t i = 0; i < candidates_.size(); ++i) {
        candidates_[i]->compute(step);
        n_computed_.fetch_add(1);
        if (!reference_ || reference_->routes() == nullptr) continue;
        if (candidates_[i]->routes() == nullptr) continue;
        count_agreement(*reference_->routes(), *candidates_[i]->routes(), agreement_[i]);
    }
}

void Scorer::score(const Step& step) {
    const int device = device_of_rows();
    if (device >= 0) {
        score_on_device(step, device);
    } else {
        score_on_host(step);
    }
    if (reference_ && observer_) show_to_observer(step);
}

Scorer::Place Scorer::place_of(const Step& step, int32_t output) const {
    const int32_t chunk = step.first_chunk + output / step.n_outputs_per_chunk();
    const int32_t position = step.first_output + output % step.n_outputs_per_chunk();
    const auto token = static_cast<size_t>(int64_t{chunk} * shape_.n_ctx + position + 1);
    return {int64_t{chunk} * shape_.n_scored() + (position - shape_.first_scored()),
            (*tokens_)[token]};
}

// A GPU that has rows of a model; -1: all lie on the host.
int Scorer::device_of_rows() const {
    for (const auto& candidate : candidates_) {
        if (candidate->device() >= 0) return candidate->device();
    }
    return reference_ ? reference_->device() : -1;
}

void Scorer::score_on_device(const Step& step, int device) {
    if (scoring_device_ != device) {
        device_scores_ = make_device_scores(device);
        scoring_device_ = device;
    }
    const auto n = static_cast<size_t>(step.n_outputs());
    std::vector<int32_t> targets;
    for (int32_t i = 0; i < step.n_outputs(); ++i) targets.push_back(place_of(step, i).target);
    DeviceScoreJob job;
    job.n_rows = step.n_outputs();
    job.n_vocab = reference_ ? reference_->n_vocab() : candidates_.front()->n_vocab();
    job.targets = targets.data();
    if (reference_) job.reference = reference_->row(0);
    job.is_coded = reference_ && reference_->is_coded();
    for (const auto& candidate : candidates_) job.candidates.push_back(candidate->row(0));
    const size_t n_before = reference_ ? n : 0;
    std::vector<RowSums> sums(n_before + n * candidates_.size());
    device_scores_->add_up(job, sums.data());

    std::vector<RowScore> scores(candidates_.size());
    for (size_t i = 0; i < n; ++i) {
        RowScore reference;
        if (reference_) reference = job.is_coded ? coded_score_of(sums[i]) : score_of(sums[i]);
        for (size_t k = 0; k < scores.size(); ++k) {
            const RowSums& row = sums[n_before + k * n + i];
            scores[k] = reference_ ? score_against(sums[i], job.is_coded, row) : score_of(row);
        }
        const Place place = place_of(step, static_cast<int32_t>(i));
        keep(static_cast<size_t>(place.index), reference, scores);
    }
}

void Scorer::score_on_host(const Step& step) {
    std::atomic<int32_t> next{0};
    pool_->run([&](int, int) {
        std::vector<const float*> rows(candidates_.size());
        std::vector<RowScore> scores(candidates_.size());
        ScoreScratch scratch;
        for (int32_t i = next.fetch_add(1); i < step.n_outputs(); i = next.fetch_add(1)) {
            score_position(step, i, rows, scores, scratch);
        }
    });
}

void Scorer::show_to_observer(const Step& step) {
    reference_->bring_to_host();
    std::atomic<int32_t> next{0};
    pool_->run([&](int, int) {
        for (int32_t i = next.fetch_add(1); i < step.n_outputs(); i = next.fetch_add(1)) {
            const Place place = place_of(step, i);
            observer_->observe(place.index, reference_->row(i), place.target);
        }
    });
}

void Scorer::score_position(const Step& step, int32_t output, std::vector<const float*>& rows,
                            std::vector<RowScore>& scores, ScoreScratch& scratch) {
    const Place place = place_of(step, output);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = candidates_[i]->row(output);
    RowScore reference;
    if (reference_) {
        const auto score = reference_->is_coded() ? score_rows_coded : score_rows;
        score(reference_->row(output), rows.data(), rows.size(), reference_->n_vocab(),
              place.target, &reference, scores.data(), scratch);
    } else {
        for (size_t i = 0; i < rows.size(); ++i) {
            scores[i] = score_row(rows[i], candidates_[i]->n_vocab(), place.target);
        }
    }
    keep(static_cast<size_t>(place.index), reference, scores);
}

void Scorer::keep(size_t index, const RowScore& reference, const std::vector<RowScore>& scores) {
    if (reference_) {
        reference_scores_.nll[index] = reference.nll;
        reference_scores_.top_probability[index] = reference.top_probability;
        reference_scores_.is_finite[index] = reference.is_finite;
    }
    for (size_t i = 0; i < scores.size(); ++i) {
        TokenScores& kept = candidate_scores_[i];
        kept.nll[index] = scores[i].nll;
        kept.is_finite[index] = scores[i].is_finite;
        if (!reference_) continue;
        kept.kld[index] = scores[i].kld;
        kept.is_same_top[index] = scores[i].top == reference.top;
    }
}

}  // namespace apex
