#include "scoring/softmax_score.h"

#include <cmath>

namespace apex {
namespace {

double log_sum(const SoftmaxSums& row) {
    return row.max + std::log(row.sum);
}

SoftmaxScore finish(const SoftmaxSums& row, double log_sum) {
    SoftmaxScore score;
    score.nll = log_sum - row.target;
    score.top_probability = std::exp(row.max - log_sum);
    score.top = row.top;
    score.is_finite = row.is_finite != 0;
    return score;
}

}  // namespace

SoftmaxScore score_of(const SoftmaxSums& row) {
    return finish(row, log_sum(row));
}

SoftmaxScore coded_score_of(const SoftmaxSums& row) {
    return finish(row, 0.0);
}

SoftmaxScore score_against(const SoftmaxSums& reference, bool is_coded,
                           const SoftmaxSums& candidate) {
    const double log = log_sum(candidate);
    SoftmaxScore score = finish(candidate, log);
    score.kld = is_coded ? candidate.difference + reference.sum * log
                         : candidate.difference / reference.sum + (log - log_sum(reference));
    return score;
}

}  // namespace apex
