#include "core/row_units.h"

#include <algorithm>

namespace apex {
namespace {

// ggml has tensors with a dimension of 0.
bool is_empty(const TensorRows& tensor) {
    return tensor.n_per_row == 0 || tensor.rows_per_slice == 0;
}

}  // namespace

RowUnits::RowUnits(std::vector<TensorRows> tensors) : tensors_(std::move(tensors)) {
    first_unit_.reserve(tensors_.size() + 1);
    first_unit_.push_back(0);
    for (const TensorRows& tensor : tensors_) {
        first_unit_.push_back(first_unit_.back() + units_per_slice(tensor) * tensor.n_slices);
    }
}

int64_t RowUnits::rows_per_unit(const TensorRows& tensor) const {
    if (is_empty(tensor)) return 0;
    return std::clamp<int64_t>(tensor.weights_per_unit / tensor.n_per_row, 1,
                               tensor.rows_per_slice);
}

int64_t RowUnits::units_per_slice(const TensorRows& tensor) const {
    if (is_empty(tensor)) return 0;
    const int64_t rows = rows_per_unit(tensor);
    return (tensor.rows_per_slice + rows - 1) / rows;
}

RowUnit RowUnits::operator[](int64_t unit) const {
    const auto after = std::upper_bound(first_unit_.begin(), first_unit_.end(), unit);
    RowUnit result;
    result.tensor = static_cast<size_t>(after - first_unit_.begin()) - 1;
    const TensorRows& tensor = tensors_[result.tensor];
    const int64_t local = unit - first_unit_[result.tensor];
    const int64_t per_slice = units_per_slice(tensor);
    const int64_t rows = rows_per_unit(tensor);
    result.slice = local / per_slice;
    result.first_row = local % per_slice * rows;
    result.n_rows = std::min(rows, tensor.rows_per_slice - result.first_row);
    return result;
}

int64_t RowUnits::max_weights() const {
    int64_t most = 0;
    for (const TensorRows& tensor : tensors_) {
        most = std::max(most, rows_per_unit(tensor) * tensor.n_per_row);
    }
    return most;
}

}  // namespace apex
