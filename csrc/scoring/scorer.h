// An evaluation: reference and candidates see the same tokens in lockstep, nothing is kept but a
// few numbers per scored position.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "scoring/logits_source.h"
#include "scoring/score_step.h"
#include "scoring/softmax.h"

namespace apex {

// A model's scored positions, chunk after chunk.
struct TokenScores {
    std::vector<double> nll;
    std::vector<double> kld;              // candidates only
    std::vector<double> top_probability;  // reference only
    std::vector<uint8_t> is_same_top;     // candidates only
    std::vector<uint8_t> is_finite;
};

// What wants to see the rows of the reference as well.
class RowObserver {
  public:
    virtual ~RowObserver() = default;
    // Called once for every scored position, from several threads at once. index counts scored
    // positions from the first chunk's.
    virtual void observe(int64_t index, const float* row, int32_t target) = 0;
};

// Sources of a lane that are computed one after the other, on one device.
struct Track {
    bool reference = false;
    std::vector<size_t> candidates;
};

// What one thread (or several, of one pool) computes with: contexts of its own over shared models.
// Lanes take groups of chunks in turn. Where memory allows, a lane a thread is best: single threads
// neither wait for each other at every node nor idle where a node cannot be shared.
struct Lane {
    std::unique_ptr<LogitsSource> reference;  // may be null: candidates are scored alone
    std::vector<std::unique_ptr<LogitsSource>> candidates;
    std::vector<Track> tracks;  // side by side; together they have all sources
    std::shared_ptr<ThreadPool> pool;
    std::unique_ptr<DeviceSoftmax> device_softmax;  // made when a GPU first has rows
    int scoring_device = -1;
};

// One thread's place for the rows and scores of a position.
struct PositionWork {
    std::vector<size_t> candidates;  // those that take part
    std::vector<const float*> rows;
    SoftmaxScore reference;
    std::vector<SoftmaxScore> scores;
    SoftmaxScratch scratch;
};

class Scorer {
  public:
    // limits: how many of the first chunks each candidate is computed for, rounded up to whole
    // groups. All lanes have the same sources. Throws InvalidArgument where sources differ in
    // n_vocab.
    Scorer(std::vector<Lane> lanes, std::vector<int32_t> limits, const ChunkShape& shape,
           ChunkTokens tokens);

    void observe_reference(std::unique_ptr<RowObserver> observer) {
        observer_ = std::move(observer);
    }

    // Logits of a GPU are copied and scored on the host, to compare the two; to be called before
    // run().
    void score_on_host_only() { host_only_ = true; }

    // Computes all chunks, once. Throws Cancelled when stopped; what is finished by then stays
    // readable.
    void run();

    // Chunks from the first on whose scores are complete, and the share of all the work that is
    // done; readable while run() runs.
    int32_t n_chunks_done() const { return n_chunks_done_.load(); }
    double progress() const;

    int32_t n_chunks() const { return n_chunks_; }
    const ChunkShape& shape() const { return shape_; }
    bool has_reference() const { return lanes_.front().reference != nullptr; }
    int64_t n_vocab() const { return n_vocab_; }

    // While run() runs only the positions of finished chunks may be read.
    const TokenScores& reference_scores() const { return reference_scores_; }
    const TokenScores& candidate_scores(size_t i) const { return candidate_scores_.at(i); }
    // Finished positions of a candidate.
    size_t n_finished(size_t i) const;
    size_t n_reference_finished() const;
    // Over the finished chunks.
    RouterCounts router_agreement(size_t i) const;

  private:
    bool is_active(size_t i, const Step& step) const { return step.first_chunk < limits_[i]; }
    void run_group(Lane& lane, int64_t group);
    void compute(Lane& lane, const Step& step, std::vector<RouterCounts>& agreement);
    void compute_track(Lane& lane, const Track& track, const Step& step);
    void finish_group(int64_t group, std::vector<RouterCounts> agreement);
    void score(Lane& lane, const Step& step);
    std::vector<size_t> active_candidates(const Step& step) const;
    // The work of one thread, for the candidates that take part in a step.
    PositionWork new_work(const Step& step) const;
    llama_token target(const ScoredPlace& place) const {
        return (*tokens_)[static_cast<size_t>(place.token + 1)];
    }
    int device_of_rows(const Lane& lane, const Step& step) const;
    void bring_to_host(Lane& lane, const Step& step);
    void score_on_device(Lane& lane, const Step& step, int device);
    void score_on_host(const Lane& lane, const Step& step);
    void show_to_observer(const Lane& lane, const Step& step);
    void score_position(const Lane& lane, const Step& step, int32_t output, PositionWork& work);
    void keep(size_t index, const PositionWork& work);

    std::vector<Lane> lanes_;
    std::vector<int32_t> limits_;
    ChunkShape shape_;
    ChunkTokens tokens_;
    std::unique_ptr<RowObserver> observer_;
    bool host_only_ = false;
    int64_t n_vocab_;
    int32_t n_chunks_;
    std::vector<Step> steps_;
    TokenScores reference_scores_;
    std::vector<TokenScores> candidate_scores_;

    mutable std::mutex finished_mutex_;
    int64_t n_groups_done_ = 0;  // all before it are finished
    std::map<int64_t, std::vector<RouterCounts>>
        waiting_;  // finished groups behind one that is not
    std::vector<RouterCounts> agreement_;
    std::atomic<int32_t> n_chunks_done_{0};
    std::atomic<int64_t> n_computed_{0};  // (model, step) pairs
    std::atomic<int64_t> n_to_compute_{0};
};

}  // namespace apex
