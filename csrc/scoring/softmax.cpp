#include "scoring/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/softmax.h"
#include "scoring/softmax_score.h"

namespace apex {
namespace {

using kernels::SoftmaxLoops;
using kernels::whole_lanes;
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

struct Top {
    float value;
    int32_t token;
    bool is_finite;
};

Top find_top(const float* row, int64_t n_vocab) {
    const SoftmaxLoops& loops = loops_in_use();
    const int64_t n_whole = whole_lanes(n_vocab);
    Top top{kNoLogit, 0, true};
    top.is_finite = loops.find_max(row, n_whole, top.value);
    if (n_whole < n_vocab) {
        const Rest rest(row, n_whole, n_vocab, kNoLogit);
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
                const Rest rest(candidate.row, n_whole, n_vocab, kNoLogit);
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
        const Rest rest(reference.row, n_whole, n_vocab, kNoLogit);
        tile(rest.values, n_whole, n_whole, n_vocab, kLanes);
    }
};

SoftmaxSums begin_sums(const float* row, int64_t n_vocab, int32_t target) {
    const Top top = find_top(row, n_vocab);
    SoftmaxSums sums;
    sums.max = row[top.token];
    sums.target = row[target];
    sums.top = top.token;
    sums.is_finite = top.is_finite;
    return sums;
}

Tiles make_tiles(const float* reference, bool is_coded, const SoftmaxSums& reference_sums,
                 const float* const* candidates, const std::vector<SoftmaxSums>& candidate_sums,
                 SoftmaxScratch& scratch) {
    scratch.weights.resize(kTile);
    const double max = is_coded ? 0.0 : reference_sums.max;
    const double floor = is_coded ? kCodedFloor : -std::numeric_limits<double>::infinity();
    Tiles tiles{{reference, max, {}, {}}, {}, floor, scratch.weights.data()};
    tiles.candidates.reserve(candidate_sums.size());
    for (size_t i = 0; i < candidate_sums.size(); ++i) {
        tiles.candidates.push_back({candidates[i], candidate_sums[i].max, {}, {}});
    }
    return tiles;
}

void score(const float* reference, bool is_coded, const float* const* candidates,
           size_t n_candidates, int64_t n_vocab, int32_t target, SoftmaxScore* reference_score,
           SoftmaxScore* candidate_scores, SoftmaxScratch& scratch) {
    SoftmaxSums first = begin_sums(reference, n_vocab, target);
    std::vector<SoftmaxSums> others;
    for (size_t i = 0; i < n_candidates; ++i) {
        others.push_back(begin_sums(candidates[i], n_vocab, target));
    }
    Tiles tiles = make_tiles(reference, is_coded, first, candidates, others, scratch);
    tiles.run(n_vocab);
    first.sum = kernels::add_lanes(tiles.reference.sums);
    *reference_score = is_coded ? coded_score_of(first) : score_of(first);
    for (size_t i = 0; i < n_candidates; ++i) {
        others[i].sum = kernels::add_lanes(tiles.candidates[i].sums);
        others[i].difference = kernels::add_lanes(tiles.candidates[i].differences);
        candidate_scores[i] = score_against(first, is_coded, others[i]);
    }
}

double sum_exp(const float* row, double max, int64_t n_vocab) {
    const SoftmaxLoops& loops = loops_in_use();
    const int64_t n_whole = whole_lanes(n_vocab);
    double sums[kLanes] = {};
    loops.sum_exp(row, max, n_whole, sums);
    if (n_whole < n_vocab) {
        const Rest rest(row, n_whole, n_vocab, kNoLogit);
        loops.sum_exp(rest.values, max, kLanes, sums);
    }
    return kernels::add_lanes(sums);
}

}  // namespace

void check_target(int32_t target, int64_t n_vocab) {
    if (target < 0 || target >= n_vocab) fail<InvalidArgument>("target ", target, " is no token");
}

void score_rows(const float* reference, const float* const* candidates, size_t n_candidates,
                int64_t n_vocab, int32_t target, SoftmaxScore* reference_score,
                SoftmaxScore* candidate_scores, SoftmaxScratch& scratch) {
    score(reference, false, candidates, n_candidates, n_vocab, target, reference_score,
          candidate_scores, scratch);
}

void score_rows_coded(const float* log_probabilities, const float* const* candidates,
                      size_t n_candidates, int64_t n_vocab, int32_t target,
                      SoftmaxScore* reference_score, SoftmaxScore* candidate_scores,
                      SoftmaxScratch& scratch) {
    score(log_probabilities, true, candidates, n_candidates, n_vocab, target, reference_score,
          candidate_scores, scratch);
}

double log_sum_exp(const float* logits, int64_t n_vocab) {
    const double max = find_top(logits, n_vocab).value;
    return max + std::log(sum_exp(logits, max, n_vocab));
}

SoftmaxScore score_row(const float* logits, int64_t n_vocab, int32_t target) {
    SoftmaxSums row = begin_sums(logits, n_vocab, target);
    row.sum = sum_exp(logits, row.max, n_vocab);
    return score_of(row);
}

}  // namespace apex
