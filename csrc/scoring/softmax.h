// Softmax and Kullback-Leibler divergence over one vocabulary, for one position and many models.
//
// Everything is computed in double from the float logits, in a fixed order (kernels/softmax.h): the
// result is the same for any instruction set and number of threads. Equal logits give a KLD of
// exactly 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scoring/softmax_score.h"

namespace apex {

// Room for one thread's intermediate values.
struct SoftmaxScratch {
    std::vector<double> weights;
};

// Scores the reference and n candidates at one position. target is the token that follows. A
// candidate's kld is meaningful where both rows are finite.
void score_rows(const float* reference, const float* const* candidates, size_t n_candidates,
                int64_t n_vocab, int32_t target, SoftmaxScore* reference_score,
                SoftmaxScore* candidate_scores, SoftmaxScratch& scratch);

// The same where the reference is what llama-perplexity's base files hold: log-probabilities that
// are not normalised after coding, those of -16 and less to be left out (its own definition).
void score_rows_coded(const float* log_probabilities, const float* const* candidates,
                      size_t n_candidates, int64_t n_vocab, int32_t target,
                      SoftmaxScore* reference_score, SoftmaxScore* candidate_scores,
                      SoftmaxScratch& scratch);

// Throws InvalidArgument unless the vocabulary has this token.
void check_target(int32_t target, int64_t n_vocab);

// One row alone: everything but kld.
SoftmaxScore score_row(const float* logits, int64_t n_vocab, int32_t target);

// max + ln(sum(exp(logits - max))).
double log_sum_exp(const float* logits, int64_t n_vocab);

}  // namespace apex
