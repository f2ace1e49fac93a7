// Scores from what a vocabulary adds up to, wherever that was done.
#pragma once

#include "scoring/softmax_sums.h"

namespace apex {

// What one row of logits says.
struct SoftmaxScore {
    double nll = 0;  // -ln p(target)
    double kld = 0;  // KL(reference || this); 0 for the reference
    double top_probability = 0;
    int32_t top = 0;        // the most probable token; the lowest of several
    bool is_finite = true;  // else nothing but top is meant to be read
};

// A reference, or a row alone: everything but kld.
SoftmaxScore score_of(const SoftmaxSums& row);

// A reference of coded log-probabilities (score_rows_coded): they need no normalising.
SoftmaxScore coded_score_of(const SoftmaxSums& row);

// A candidate against its reference.
SoftmaxScore score_against(const SoftmaxSums& reference, bool is_coded,
                           const SoftmaxSums& candidate);

}  // namespace apex
