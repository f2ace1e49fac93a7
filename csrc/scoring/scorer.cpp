#include "scoring/scorer.h"

#include <algorithm>

#include "core/error.h"
#include "core/worker_group.h"
#include "scoring/softmax_score.h"

namespace apex {
namespace {

// The vocabulary that all of them have.
int64_t common_n_vocab(const std::vector<Lane>& lanes) {
    if (lanes.empty() || (!lanes.front().reference && lanes.front().candidates.empty())) {
        fail<InvalidArgument>("there is no model to evaluate");
    }
    const Lane& lane = lanes.front();
    const int64_t n_vocab =
        lane.reference ? lane.reference->n_vocab() : lane.candidates.front()->n_vocab();
    for (const auto& candidate : lane.candidates) {
        if (candidate->n_vocab() == n_vocab) continue;
        fail<InvalidArgument>("vocabularies differ: ", n_vocab, " and ", candidate->n_vocab(),
                              " tokens; these are not quantizations of one model");
    }
    return n_vocab;
}

}  // namespace

Scorer::Scorer(std::vector<Lane> lanes, std::vector<int32_t> limits, const ChunkShape& shape,
               ChunkTokens tokens)
    : lanes_(std::move(lanes)),
      limits_(std::move(limits)),
      shape_(shape),
      tokens_(std::move(tokens)) {
    n_vocab_ = common_n_vocab(lanes_);
    n_chunks_ = check_chunks(shape_, tokens_->size());
    steps_ = make_steps(shape_, n_chunks_);
    const auto n_scored = static_cast<size_t>(n_chunks_) * static_cast<size_t>(shape_.n_scored());
    const size_t n_candidates = lanes_.front().candidates.size();
    candidate_scores_.resize(n_candidates);
    agreement_.resize(n_candidates);
    for (TokenScores& scores : candidate_scores_) {
        scores.nll.resize(n_scored);
        scores.is_finite.resize(n_scored);
        if (!has_reference()) continue;
        scores.kld.resize(n_scored);
        scores.is_same_top.resize(n_scored);
    }
    if (has_reference()) {
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
    const int64_t limit = std::max(limits_.at(i), 0);
    const int64_t n_groups = (limit + shape_.n_sequences - 1) / shape_.n_sequences;
    const int64_t n_chunks =
        std::min<int64_t>(n_groups * shape_.n_sequences, n_chunks_done_.load());
    return static_cast<size_t>(n_chunks) * static_cast<size_t>(shape_.n_scored());
}

RouterCounts Scorer::router_agreement(size_t i) const {
    const std::lock_guard<std::mutex> lock(finished_mutex_);
    return agreement_.at(i);
}

void Scorer::run() {
    int64_t n_to_compute = 0;
    for (const Step& step : steps_) {
        n_to_compute += has_reference() ? 1 : 0;
        n_to_compute += static_cast<int64_t>(active_candidates(step).size());
    }
    n_to_compute_ = n_to_compute;
    const int64_t n_groups = (n_chunks_ + shape_.n_sequences - 1) / shape_.n_sequences;
    run_lanes(lanes_, n_groups, [this](Lane& lane, int64_t group) { run_group(lane, group); });
}

void Scorer::run_group(Lane& lane, int64_t group) {
    const size_t n_steps = steps_per_group(shape_);
    std::vector<RouterCounts> agreement(limits_.size());
    for (size_t i = 0; i < n_steps; ++i) {
        const Step& step = steps_[static_cast<size_t>(group) * n_steps + i];
        compute(lane, step, agreement);
        if (step.n_outputs() > 0) score(lane, step);
    }
    finish_group(group, std::move(agreement));
}

void Scorer::compute(Lane& lane, const Step& step, std::vector<RouterCounts>& agreement) {
    if (lane.tracks.size() == 1) {
        compute_track(lane, lane.tracks.front(), step);
    } else {
        const auto n_tracks = static_cast<int64_t>(lane.tracks.size());
        WorkerGroup side_by_side(static_cast<int>(n_tracks), n_tracks, [&] {
            return
                [&](int64_t i) { compute_track(lane, lane.tracks[static_cast<size_t>(i)], step); };
        });
        side_by_side.join();
    }
    if (!lane.reference || lane.reference->routes() == nullptr) return;
    for (size_t i = 0; i < lane.candidates.size(); ++i) {
        const std::unique_ptr<LogitsSource>& source = lane.candidates[i];
        if (!source || source->routes() == nullptr) continue;
        count_agreement(*lane.reference->routes(), *source->routes(), agreement[i]);
    }
}

void Scorer::compute_track(Lane& lane, const Track& track, const Step& step) {
    if (track.reference && lane.reference) {
        lane.reference->compute(step);
        n_computed_.fetch_add(1);
    }
    for (const size_t i : track.candidates) {
        if (!is_active(i, step)) {
            lane.candidates[i].reset();  // its memory is not needed any more
            continue;
        }
        lane.candidates[i]->compute(step);
        n_computed_.fetch_add(1);
    }
}

// Lanes finish groups out of order; what counts as finished has no gaps.
void Scorer::finish_group(int64_t group, std::vector<RouterCounts> agreement) {
    const std::lock_guard<std::mutex> lock(finished_mutex_);
    waiting_[group] = std::move(agreement);
    while (!waiting_.empty() && waiting_.begin()->first == n_groups_done_) {
        const std::vector<RouterCounts>& counts = waiting_.begin()->second;
        for (size_t i = 0; i < counts.size(); ++i) add_counts(counts[i], agreement_[i]);
        waiting_.erase(waiting_.begin());
        ++n_groups_done_;
    }
    n_chunks_done_ =
        static_cast<int32_t>(std::min<int64_t>(n_groups_done_ * shape_.n_sequences, n_chunks_));
}

void Scorer::score(Lane& lane, const Step& step) {
    if (host_only_) bring_to_host(lane, step);
    const int device = device_of_rows(lane, step);
    if (device >= 0) {
        score_on_device(lane, step, device);
    } else {
        score_on_host(lane, step);
    }
    if (lane.reference && observer_) {
        lane.reference->bring_to_host();
        show_to_observer(lane, step);
    }
}

std::vector<size_t> Scorer::active_candidates(const Step& step) const {
    std::vector<size_t> active;
    for (size_t i = 0; i < limits_.size(); ++i) {
        if (is_active(i, step)) active.push_back(i);
    }
    return active;
}

PositionWork Scorer::new_work(const Step& step) const {
    PositionWork work;
    work.candidates = active_candidates(step);
    work.rows.resize(work.candidates.size());
    work.scores.resize(work.candidates.size());
    return work;
}

// A GPU that has rows of a model; -1: all lie on the host.
int Scorer::device_of_rows(const Lane& lane, const Step& step) const {
    for (const size_t i : active_candidates(step)) {
        if (lane.candidates[i]->device() >= 0) return lane.candidates[i]->device();
    }
    return lane.reference ? lane.reference->device() : -1;
}

void Scorer::bring_to_host(Lane& lane, const Step& step) {
    if (lane.reference) lane.reference->bring_to_host();
    for (const size_t i : active_candidates(step)) lane.candidates[i]->bring_to_host();
}

void Scorer::score_on_device(Lane& lane, const Step& step, int device) {
    if (lane.scoring_device != device) {
        lane.device_softmax = make_device_softmax(device);
        lane.scoring_device = device;
    }
    PositionWork work = new_work(step);
    const auto n = static_cast<size_t>(step.n_outputs());
    std::vector<ScoredPlace> places;
    std::vector<int32_t> targets;
    for (int32_t i = 0; i < step.n_outputs(); ++i) {
        places.push_back(scored_place(shape_, step, i));
        targets.push_back(target(places.back()));
    }
    DeviceSoftmaxJob job;
    job.n_rows = step.n_outputs();
    job.n_vocab = n_vocab_;
    job.targets = targets.data();
    if (lane.reference) job.reference = lane.reference->row(0);
    job.is_coded = lane.reference && lane.reference->is_coded();
    for (const size_t i : work.candidates) job.candidates.push_back(lane.candidates[i]->row(0));
    const size_t n_before = lane.reference ? n : 0;
    std::vector<SoftmaxSums> sums(n_before + n * work.candidates.size());
    lane.device_softmax->add_up(job, sums.data());

    for (size_t i = 0; i < n; ++i) {
        if (lane.reference) {
            work.reference = job.is_coded ? coded_score_of(sums[i]) : score_of(sums[i]);
        }
        for (size_t k = 0; k < work.scores.size(); ++k) {
            const SoftmaxSums& row = sums[n_before + k * n + i];
            work.scores[k] =
                lane.reference ? score_against(sums[i], job.is_coded, row) : score_of(row);
        }
        keep(static_cast<size_t>(places[i].index), work);
    }
}

void Scorer::score_on_host(const Lane& lane, const Step& step) {
    std::atomic<int32_t> next{0};
    lane.pool->run([&](int, int) {
        PositionWork work = new_work(step);
        for (int32_t i = next.fetch_add(1); i < step.n_outputs(); i = next.fetch_add(1)) {
            score_position(lane, step, i, work);
        }
    });
}

void Scorer::show_to_observer(const Lane& lane, const Step& step) {
    std::atomic<int32_t> next{0};
    lane.pool->run([&](int, int) {
        for (int32_t i = next.fetch_add(1); i < step.n_outputs(); i = next.fetch_add(1)) {
            const ScoredPlace place = scored_place(shape_, step, i);
            observer_->observe(place.index, lane.reference->row(i), target(place));
        }
    });
}

void Scorer::score_position(const Lane& lane, const Step& step, int32_t output,
                            PositionWork& work) {
    const ScoredPlace place = scored_place(shape_, step, output);
    const size_t n = work.candidates.size();
    for (size_t i = 0; i < n; ++i) {
        work.rows[i] = lane.candidates[work.candidates[i]]->row(output);
    }
    if (lane.reference) {
        const auto score = lane.reference->is_coded() ? score_rows_coded : score_rows;
        score(lane.reference->row(output), work.rows.data(), n, n_vocab_, target(place),
              &work.reference, work.scores.data(), work.scratch);
    } else {
        for (size_t i = 0; i < n; ++i) {
            work.scores[i] = score_row(work.rows[i], n_vocab_, target(place));
        }
    }
    keep(static_cast<size_t>(place.index), work);
}

void Scorer::keep(size_t index, const PositionWork& work) {
    if (has_reference()) {
        reference_scores_.nll[index] = work.reference.nll;
        reference_scores_.top_probability[index] = work.reference.top_probability;
        reference_scores_.is_finite[index] = work.reference.is_finite;
    }
    for (size_t i = 0; i < work.scores.size(); ++i) {
        TokenScores& kept = candidate_scores_[work.candidates[i]];
        const SoftmaxScore& score = work.scores[i];
        kept.nll[index] = score.nll;
        kept.is_finite[index] = score.is_finite;
        if (!has_reference()) continue;
        kept.kld[index] = score.kld;
        kept.is_same_top[index] = score.top == work.reference.top;
    }
}

}  // namespace apex
