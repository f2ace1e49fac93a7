// Scores from what a vocabulary adds up to, wherever that was done.
#pragma once

#include "scoring/row_sums.h"
#include "scoring/score_kernel.h"

namespace apex {

// A reference, or a row alone: everything but kld.
RowScore score_of(const RowSums& row);

// A reference of coded log-probabilities (score_rows_coded): they need no normalising.
RowScore coded_score_of(const RowSums& row);

// A candidate against its reference.
RowScore score_against(const RowSums& reference, bool is_coded, const RowSums& candidate);

}  // namespace apex
