#include "scoring/row_scores.h"

#include <cmath>

namespace apex {
namespace {

double log_sum(const RowSums& row) {
    return row.max + std::log(row.sum);
}

RowScore finish(const RowSums& row, double log_sum) {
    RowScore score;
    score.nll = log_sum - row.target;
    score.top_probability = std::exp(row.max - log_sum);
    score.top = row.top;
    score.is_finite = row.is_finite != 0;
    return score;
}

}  // namespace

RowScore score_of(const RowSums& row) {
    return finish(row, log_sum(row));
}

RowScore coded_score_of(const RowSums& row) {
    return finish(row, 0.0);
}

RowScore score_against(const RowSums& reference, bool is_coded, const RowSums& candidate) {
    const double log = log_sum(candidate);
    RowScore score = finish(candidate, log);
    score.kld = is_coded ? candidate.difference + reference.sum * log
                         : candidate.difference / reference.sum + (log - log_sum(reference));
    return score;
}

}  // namespace apex
