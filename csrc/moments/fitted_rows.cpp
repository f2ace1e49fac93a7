#include "moments/fitted_rows.h"

#include <algorithm>
#include <cstring>

#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/quantize_rows.h"

namespace apex {

std::vector<float> sample_rows(const StoredTensor& source, int64_t slice, int64_t most) {
    const TensorRows& rows = source.rows;
    const int64_t n_rows = std::min(most, rows.rows_per_slice);
    std::vector<float> weights(static_cast<size_t>(n_rows * rows.n_per_row));
    std::vector<uint8_t> stored;
    for (int64_t i = 0; i < n_rows; ++i) {
        RowUnit unit;
        unit.slice = slice;
        unit.first_row = i * rows.rows_per_slice / n_rows;
        unit.n_rows = 1;
        stored.resize(unit_bytes(source, unit));
        read_unit(source, unit, stored.data());
        convert_to_float(source.type, stored.data(), weights.data() + i * rows.n_per_row,
                         rows.n_per_row);
        require_finite(source, unit, weights.data() + i * rows.n_per_row);
    }
    return weights;
}

void quantize_plainly(const QuantizeTask& task, int64_t slice, const float* weights, int64_t n_rows,
                      uint8_t* result) {
    quantize_rows(task.target_type, weights, result, n_rows, task.source.rows.n_per_row,
                  task.slice_imatrix(slice));
}

void fit_rows(ggml_type type, const FeedbackBasis& basis, const FeedbackEffort& effort,
              const float* weights, int64_t n_rows, uint8_t* result) {
    const size_t size = row_bytes(type, basis.n);
    const FeedbackRows rows(type, basis, effort);
    std::vector<uint8_t> start(static_cast<size_t>(n_rows) * size);
    std::vector<float> costs(static_cast<size_t>(n_rows));
    quantize_rows(type, weights, start.data(), n_rows, basis.n, basis.importance.data());
    rows.quantize(weights, n_rows, start.data(), result, costs.data());
    for (int64_t row = 0; row < n_rows; ++row) {
        uint8_t* bytes = result + static_cast<size_t>(row) * size;
        if (!ggml_validate_row_data(type, bytes, size)) {
            std::memcpy(bytes, start.data() + static_cast<size_t>(row) * size, size);
        }
    }
}

}  // namespace apex
