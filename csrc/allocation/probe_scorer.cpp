#include "allocation/probe_scorer.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "core/error.h"
#include "core/worker_group.h"
#include "ggml-backend.h"
#include "model/lm_head.h"

namespace apex {
// --- lane ---------------------------------------------------------------------------------------

ProbeLane::ProbeLane(std::shared_ptr<Model> model, int32_t n_ctx, int n_threads,
                     std::shared_ptr<const StopFlag> stop)
    : shape_{n_ctx, 1, n_ctx},
      n_vocab_(model->n_vocab()),
      pool_(std::make_shared<ThreadPool>(n_threads)),
      context_((check_scorable(*model, shape_), std::move(model)), pool_, context_options(shape_),
               this, std::move(stop)) {}

bool ProbeLane::wants(const ggml_tensor* node) {
    if (swap_ != nullptr && node->view_src != nullptr && swap_->changes(node->view_src)) {
        fail<ModelError>(model().path(), ": the graph looks into '", node->view_src->name,
                         "' by a view; this architecture's weights cannot be exchanged in memory");
    }
    // The graph is the context's own; only which of its nodes are computed is changed.
    const bool state = states_.wants(const_cast<ggml_tensor*>(node));
    return state || std::strcmp(node->name, kLogitsName) == 0;
}

bool ProbeLane::observe(ggml_tensor* node) {
    if (std::strcmp(node->name, kLogitsName) != 0) {
        states_.observe(node);
        return true;
    }
    const auto expected = static_cast<int64_t>(batch_.n_outputs());
    if (node->type != GGML_TYPE_F32 || node->ne[0] != n_vocab_ || !ggml_is_contiguous(node) ||
        ggml_nrows(node) != expected) {
        fail<ModelError>(model().path(), ": expected ", expected, " rows of ", n_vocab_,
                         " F32 logits, found ", ggml_nrows(node), " rows of ", node->ne[0]);
    }
    target_->resize(static_cast<size_t>(ggml_nelements(node)));
    ggml_backend_tensor_get(node, target_->data(), 0, ggml_nbytes(node));
    return true;
}

void ProbeLane::decode(std::vector<float>& rows) {
    rows.clear();
    target_ = &rows;
    context_.clear_memory();
    context_.decode(batch_);
    if (rows.empty()) {
        fail<ModelError>(model().path(), ": llama.cpp computed no node named ", kLogitsName);
    }
    ++n_decoded_;
}

void ProbeLane::compute_reference(const std::vector<llama_token>& tokens, int32_t chunk) {
    const Step step = make_steps(shape_, chunk + 1).back();
    fill_batch(batch_, model().vocab(), shape_, tokens, step, step.begin, step.end);
    states_.begin_recording();
    decode(reference_);
    states_.finish_recording();
}

void ProbeLane::compute_candidate(const std::vector<const PlacedValue*>& values,
                                  int32_t first_layer) {
    const ValueSwap swap(values);
    swap_ = &swap;
    states_.begin_replay(first_layer);
    try {
        decode(rows_);
    } catch (...) {
        swap_ = nullptr;
        throw;
    }
    swap_ = nullptr;
}

const PlacedValue* ProbeLane::place(const std::shared_ptr<const TensorValue>& value) {
    std::unique_ptr<PlacedValue>& placed = placed_[value.get()];
    if (!placed) placed = std::make_unique<PlacedValue>(model(), value);
    return placed.get();
}

void ProbeLane::keep_only(const std::vector<ProbeCandidate>& candidates) {
    std::set<const TensorValue*> needed;
    for (const ProbeCandidate& candidate : candidates) {
        for (const auto& value : candidate.values) needed.insert(value.get());
    }
    for (auto placed = placed_.begin(); placed != placed_.end();) {
        placed = needed.count(placed->first) > 0 ? std::next(placed) : placed_.erase(placed);
    }
}

// --- scorer -------------------------------------------------------------------------------------

ProbeScorer::ProbeScorer(const std::vector<std::shared_ptr<Model>>& models, int32_t n_ctx,
                         int n_threads, std::shared_ptr<const StopFlag> stop)
    : shape_{n_ctx, 1, n_ctx} {
    if (models.empty()) fail<InvalidArgument>("there is no model to probe");
    for (const std::shared_ptr<Model>& model : models) {
        lanes_.push_back(std::make_unique<ProbeLane>(model, n_ctx, n_threads, stop));
    }
}

double ProbeScorer::progress() const {
    const int64_t n = n_all_.load();
    return n == 0 ? 0 : double(n_done_.load()) / double(n);
}

void ProbeScorer::run(const std::vector<llama_token>& tokens,
                      const std::vector<ProbeCandidate>& candidates) {
    const int32_t n_chunks = check_chunks(shape_, tokens.size());
    const auto n_scored = static_cast<size_t>(n_chunks) * static_cast<size_t>(shape_.n_scored());
    n_done_ = 0;
    n_all_ = int64_t{n_chunks} * static_cast<int64_t>(candidates.size() + 1);
    reference_nll_.assign(n_scored, 0);
    scores_.assign(candidates.size(), {});
    for (ProbeScores& scores : scores_) {
        scores.kld.resize(n_scored);
        scores.nll.resize(n_scored);
        scores.is_same_top.resize(n_scored);
        scores.is_finite.resize(n_scored);
    }
    for (const auto& lane : lanes_) lane->keep_only(candidates);
    run_lanes(lanes_, n_chunks, [&](std::unique_ptr<ProbeLane>& lane, int64_t chunk) {
        run_chunk(*lane, tokens, static_cast<int32_t>(chunk), candidates);
    });
}

void ProbeScorer::run_chunk(ProbeLane& lane, const std::vector<llama_token>& tokens, int32_t chunk,
                            const std::vector<ProbeCandidate>& candidates) {
    lane.compute_reference(tokens, chunk);
    n_done_.fetch_add(1);
    for (size_t i = 0; i < candidates.size(); ++i) {
        std::vector<const PlacedValue*> values;
        for (const auto& value : candidates[i].values) values.push_back(lane.place(value));
        lane.compute_candidate(values, candidates[i].first_layer);
        score(lane, tokens, chunk, scores_[i]);
        n_done_.fetch_add(1);
    }
}

void ProbeScorer::score(ProbeLane& lane, const std::vector<llama_token>& tokens, int32_t chunk,
                        ProbeScores& scores) {
    const int32_t n_scored = shape_.n_scored();
    const int64_t n_vocab = lane.model().n_vocab();
    std::atomic<int32_t> next{0};
    lane.pool().run([&](int, int) {
        SoftmaxScratch scratch;
        for (int32_t i = next.fetch_add(1); i < n_scored; i = next.fetch_add(1)) {
            const int64_t token = int64_t{chunk} * shape_.n_ctx + shape_.first_scored() + i;
            const float* row = lane.row(i);
            SoftmaxScore reference, candidate;
            score_rows(lane.reference_row(i), &row, 1, n_vocab,
                       tokens[static_cast<size_t>(token + 1)], &reference, &candidate, scratch);
            const auto index = static_cast<size_t>(int64_t{chunk} * n_scored + i);
            reference_nll_[index] = reference.nll;
            scores.kld[index] = candidate.kld;
            scores.nll[index] = candidate.nll;
            scores.is_same_top[index] = candidate.top == reference.top;
            scores.is_finite[index] = candidate.is_finite && reference.is_finite;
        }
    });
}

}  // namespace apex
