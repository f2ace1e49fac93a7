// The inputs of a model's output as they were computed, and what its rows' errors cost there.
#pragma once

#include <cstdint>
#include <vector>

#include "calibration/matmul_node.h"
#include "model/lm_head.h"
#include "model/thread_pool.h"

namespace apex {

// Rows of floats in the graph's order; those of every second group of chunks are the part.
class OutputRows {
  public:
    void set_part(bool in_part) { in_part_ = in_part; }

    // Copies the input of the output's product, wherever it lies.
    void add(const MatmulNode& node);

    int64_t n_per_row() const { return n_per_row_; }
    int64_t n_rows() const { return static_cast<int64_t>(is_part_.size()); }
    const float* row(int64_t i) const { return values_.data() + i * n_per_row_; }
    bool is_part(int64_t i) const { return is_part_[static_cast<size_t>(i)] != 0; }

  private:
    bool in_part_ = false;
    int64_t n_per_row_ = 0;
    std::vector<float> values_;
    std::vector<uint8_t> is_part_;
};

// Of each group of the output's rows, packed as in moments/products.h: of both halves of the text.
struct GroupMoments {
    struct Half {
        std::vector<double> sums;     // groups x packed_size(n_per_row)
        std::vector<double> weights;  // of tokens
    };
    Half part, rest;
};

// An error e of a logit whose token has probability p costs p (1 - p) e^2 / 2 of KL divergence, to
// second order and but for what errors of several logits have in common: inputs are weighed by the
// sum of p (1 - p) over a group's tokens. groups: of each row of the head. The same for any number
// of threads.
GroupMoments group_moments(const LmHead& head, const OutputRows& rows,
                           const std::vector<int32_t>& groups, int n_groups, ThreadPool& pool);

}  // namespace apex
