#include "model/score_kernel.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/softmax.h"

namespace apex {
namespace {

using kernels::SoftmaxLoops;
constexpr int kLanes = kernels::kSoftmaxLanes;

const SoftmaxLoops& loops_in_use() {
    static const SoftmaxLoops& loops = kernels::softmax_loops(kernels::best_isa());
    return loops;
}

// So many entries are weighed for the reference before the candidates see them: 16 KiB of weights
// stay in a core's first-level cache.
constexpr int64_t kTile = 2048;

// A row whose length is no multiple of 16, cut into whole lanes and a rest that is padded with
// copies of `fill`.
struct Rest {
    alignas(64) float values[kLanes];

    Rest(const float* row, int64_t n_whole, int64_t n_vocab, float fill) {
        std::fill(values, values + kLanes, fill);
        std::copy(row + n_whole, row + n_vocab, values);
    }
};

constexpr float kNothing = -std::numeric_limits<float>::max();  // exp of it is below any sum's ulp

int64_t whole_lanes(int64_t n_vocab) {
    return n_vocab / kLanes * kLanes;
}

struct Top {
    float value;
    int32_t token;
    bool is_finite;
};

Top find_top(const float* row, int64_t n_vocab) {
    const SoftmaxLoops& loops = loops_in_use();
    const int64_t n_whole = whole_lanes(n_vocab);
    Top top{kNothing, 0, true};
    top.is_finite = loops.find_max(row, n_whole, top.value);
    if (n_whole < n_vocab) {
        const Rest rest(row, n_whole, n_vocab, kNothing);
        top.is_finite &= loops.find_max(rest.values, kLanes, top.value);
    }
    const float* first = std::find(row, row + n_vocab, top.value);
    top.token = first == row + n_vocab ? 0 : static_cast<int32_t>(first - row);
    return top;
}

// What is known of a row while the vocabulary goes by.
struct Pass {
    const float* row;
    double max;
    double sums[kLanes] = {};
    double differences[kLanes] = {};
};

// Goes over the vocabulary in tiles, the padded rest last.
struct Tiles {
    Pass reference;
    std::vector<Pass> candidates;
    double floor;
    double* weights;

    void tile(const float* x, int64_t offset, int64_t n_whole, int64_t n_vocab, int64_t n) {
        const SoftmaxLoops& loops = loops_in_use();
        loops.weigh(x, reference.max, floor, n, weights, reference.sums);
        for (Pass& candidate : candidates) {
            if (offset < n_whole) {
                loops.compare(x, candidate.row + offset, weights, candidate.max, n, candidate.sums,
                              candidate.differences);
            } else {
                const Rest rest(candidate.row, n_whole, n_vocab, kNothing);
                loops.compare(x, rest.values, weights, candidate.max, n, candidate.sums,
                              candidate.differences);
            }
        }
    }

    void run(int64_t n_vocab) {
        const int64_t n_whole = whole_lanes(n_vocab);
        for (int64_t offset = 0; offset < n_whole; offset += kTile) {
            tile(reference.row + offset, offset, n_whole, n_vocab,
                 std::min(kTile, n_whole - offset));
        }
        if (n_whole == n_vocab) return;
        const Rest rest(reference.row, n_whole, n_vocab, kNothing);
        tile(rest.values, n_whole, n_whole, n_vocab, kLanes);
    }
};

Tiles make_tiles(const float* reference, double reference_max, double floor,
                 const float* const* candidates, size_t n_candidates, const RowScore* scores,
                 ScoreScratch& scratch) {
    scratch.weights.resize(kTile);
    Tiles tiles{{reference, reference_max, {}, {}}, {}, floor, scratch.weights.data()};
    tiles.candidates.reserve(n_candidates);
    for (size_t i = 0; i < n_candidates; ++i) {
        tiles.candidates.push_back({candidates[i], candidates[i][scores[i].top], {}, {}});
    }
    return tiles;
}

RowScore begin_score(const float* row, int64_t n_vocab) {
    const Top top = find_top(row, n_vocab);
    RowScore score;
    score.top = top.token;
    score.is_finite = top.is_finite;
    return score;
}

void finish_score(RowScore& score, const float* row, int32_t target, double log_sum) {
    score.nll = log_sum - row[target];
    score.top_probability = std::exp(row[score.top] - log_sum);
}

double log_sum(const Pass& pass) {
    return pass.max + std::log(kernels::add_lanes(pass.sums));
}

}  // namespace

void score_rows(const float* reference, const float* const* candidates, size_t n_candidates,
                int64_t n_vocab, int32_t target, RowScore* reference_score,
                RowScore* candidate_scores, ScoreScratch& scratch) {
    *reference_score = begin_score(reference, n_vocab);
    for (size_t i = 0; i < n_candidates; ++i) {
        candidate_scores[i] = begin_score(candidates[i], n_vocab);
    }
    Tiles tiles = make_tiles(reference, reference[reference_score->top],
                             -std::numeric_limits<double>::infinity(), candidates, n_candidates,
                             candidate_scores, scratch);
    tiles.run(n_vocab);
    const double reference_sum = kernels::add_lanes(tiles.reference.sums);
    const double reference_log = log_sum(tiles.reference);
    finish_score(*reference_score, reference, target, reference_log);
    for (size_t i = 0; i < n_candidates; ++i) {
        const Pass& pass = tiles.candidates[i];
        const double log = log_sum(pass);
        finish_score(candidate_scores[i], candidates[i], target, log);
        const double difference = kernels::add_lanes(pass.differences) / reference_sum;
        candidate_scores[i].kld = difference + (log - reference_log);
    }
}

void score_rows_coded(const float* log_probabilities, const float* const* candidates,
                      size_t n_candidates, int64_t n_vocab, int32_t target,
                      RowScore* reference_score, RowScore* candidate_scores,
                      ScoreScratch& scratch) {
    constexpr double kFloor = -16;  // tools/perplexity/perplexity.cpp, log_softmax
    *reference_score = begin_score(log_probabilities, n_vocab);
    for (size_t i = 0; i < n_candidates; ++i) {
        candidate_scores[i] = begin_score(candidates[i], n_vocab);
    }
    Tiles tiles = make_tiles(log_probabilities, 0.0, kFloor, candidates, n_candidates,
                             candidate_scores, scratch);
    tiles.run(n_vocab);
    const double reference_sum = kernels::add_lanes(tiles.reference.sums);
    finish_score(*reference_score, log_probabilities, target, 0.0);
    for (size_t i = 0; i < n_candidates; ++i) {
        const Pass& pass = tiles.candidates[i];
        const double log = log_sum(pass);
        finish_score(candidate_scores[i], candidates[i], target, log);
        candidate_scores[i].kld = kernels::add_lanes(pass.differences) + reference_sum * log;
    }
}

double log_sum_exp(const float* logits, int64_t n_vocab) {
    const SoftmaxLoops& loops = loops_in_use();
    const int64_t n_whole = whole_lanes(n_vocab);
    Pass pass{logits, find_top(logits, n_vocab).value, {}, {}};
    loops.sum_exp(logits, pass.max, n_whole, pass.sums);
    if (n_whole < n_vocab) {
        const Rest rest(logits, n_whole, n_vocab, kNothing);
        loops.sum_exp(rest.values, pass.max, kLanes, pass.sums);
    }
    return log_sum(pass);
}

RowScore score_row(const float* logits, int64_t n_vocab, int32_t target) {
    RowScore score = begin_score(logits, n_vocab);
    finish_score(score, logits, target, log_sum_exp(logits, n_vocab));
    return score;
}

}  // namespace apex
