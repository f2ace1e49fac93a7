// An evaluation: reference and candidates see the same tokens in lockstep, nothing is stored but a
// few numbers per scored position.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "model/logits_source.h"
#include "model/score_kernel.h"
#include "model/score_step.h"

namespace apex {

// A model's scored positions, chunk after chunk.
struct TokenScores {
    std::vector<double> nll;
    std::vector<double> kld;                // candidates only
    std::vector<double> top_probability;    // reference only
    std::vector<uint8_t> is_same_top;       // candidates only
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

struct ScoredSource {
    std::unique_ptr<LogitsSource> source;
    int32_t n_chunks = INT32_MAX;  // so many of the first chunks, rounded up to whole groups
};

// One thread's place for the rows and scores of a position.
struct PositionWork {
    std::vector<size_t> candidates;  // those that take part
    std::vector<const float*> rows;
    RowScore reference;
    std::vector<RowScore> scores;
    ScoreScratch scratch;
};

class Scorer {
  public:
    // reference may be null: candidates are scored alone. Throws InvalidArgument where the sources
    // differ in n_vocab.
    Scorer(std::unique_ptr<LogitsSource> reference, std::vector<ScoredSource> candidates,
           const ChunkShape& shape, ChunkTokens tokens, std::shared_ptr<ThreadPool> pool);

    void observe_reference(std::unique_ptr<RowObserver> observer) {
        observer_ = std::move(observer);
    }

    // Computes all chunks. Throws Cancelled when stopped; what is finished by then stays readable.
    void run();

    // Chunks whose scores are complete, and shares of all the work; readable while run() runs.
    int32_t n_chunks_done() const { return n_chunks_done_.load(); }
    double progress() const;

    int32_t n_chunks() const { return n_chunks_; }
    const ChunkShape& shape() const { return shape_; }
    bool has_reference() const { return reference_ != nullptr; }
    int64_t n_vocab() const { return n_vocab_; }
    size_t n_candidates() const { return candidates_.size(); }

    // While run() runs only the positions of finished chunks may be read.
    const TokenScores& reference_scores() const { return reference_scores_; }
    const TokenScores& candidate_scores(size_t i) const { return candidate_scores_.at(i); }
    // Finished positions of a candidate.
    size_t n_finished(size_t i) const;
    size_t n_reference_finished() const;
    // Over the finished chunks.
    RouterCounts router_agreement(size_t i) const;

  private:
    bool is_active(size_t i, const Step& step) const {
        return step.first_chunk < candidates_[i].n_chunks;
    }
    void compute(const Step& step);
    void finish_chunks(const Step& step);
    void score(const Step& step);
    void score_position(const Step& step, int32_t output, PositionWork& work);
    void keep(size_t index, const PositionWork& work);

    std::unique_ptr<LogitsSource> reference_;
    std::vector<ScoredSource> candidates_;
    ChunkShape shape_;
    ChunkTokens tokens_;
    std::shared_ptr<ThreadPool> pool_;
    std::unique_ptr<RowObserver> observer_;
    int64_t n_vocab_;
    int32_t n_chunks_;
    TokenScores reference_scores_;
    std::vector<TokenScores> candidate_scores_;
    std::vector<RouterCounts> agreement_;
    mutable std::mutex finished_mutex_;
    std::vector<RouterCounts> finished_agreement_;
    std::atomic<int32_t> n_chunks_done_{0};
    std::atomic<int64_t> n_computed_{0};  // (model, step) pairs
    std::atomic<int64_t> n_to_compute_{0};
};

}  // namespace apex
