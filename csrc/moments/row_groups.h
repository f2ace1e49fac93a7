// Rows of a weight in groups of like ones: what is asked for together is fitted together.
#pragma once

#include <cstdint>
#include <vector>

#include "core/row_source.h"
#include "ggml.h"

namespace apex {

// The group of each row, from 0, every group with rows: spherical k-means of the rows less their
// mean, begun at rows spread evenly. Fewer than n_groups where some would be empty. data: n_rows
// rows of n weights. The same for any number of threads.
std::vector<int32_t> group_rows(ggml_type type, const uint8_t* data, int64_t n_rows, int64_t n,
                                int n_groups, int n_threads);

// Can rows of the tensor be read in another order? Not where they are computed in blocks.
bool can_reorder(const StoredTensor& tensor);

// The rows of one group, in their order, as a tensor of their own. Throws InvalidArgument unless
// can_reorder.
StoredTensor rows_of_group(const StoredTensor& tensor, const std::vector<int32_t>& groups,
                           int32_t group);

}  // namespace apex
