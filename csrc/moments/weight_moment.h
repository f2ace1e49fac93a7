// What a change of a vector costs in the products that read it: W^T W of a weight's rows.
#pragma once

#include <vector>

#include "core/row_source.h"

namespace apex {

// The sum over all rows w of the tensor (experts too) of (w * scales)^T (w * scales), element by
// element, packed as in moments/products.h. scales: n_per_row factors, or null. The same for any
// number of threads. Throws GgufError, QuantizeError where a weight is not finite.
std::vector<double> weight_moment(const StoredTensor& tensor, const float* scales, int n_threads);

}  // namespace apex
