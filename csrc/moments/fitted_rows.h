// Rows of a tensor as ggml quantizes them and as a basis does.
#pragma once

#include <cstdint>
#include <vector>

#include "core/quantize_task.h"
#include "moments/basis.h"
#include "moments/feedback.h"

namespace apex {

// At most so many rows of a slice, spread over it, as floats; all finite.
std::vector<float> sample_rows(const StoredTensor& source, int64_t slice, int64_t most);

// The task's bytes without error feedback.
void quantize_plainly(const QuantizeTask& task, int64_t slice, const float* weights, int64_t n_rows,
                      uint8_t* result);

// Rows whose search ends in bytes that are not valid keep the start: ggml's, with the basis'
// importances.
void fit_rows(ggml_type type, const FeedbackBasis& basis, const FeedbackEffort& effort,
              const float* weights, int64_t n_rows, uint8_t* result);

}  // namespace apex
