#include "moments/grouped_tensor.h"

#include <algorithm>
#include <cstring>

#include "core/checks.h"
#include "core/error.h"

namespace apex {

GroupedTensor::GroupedTensor(ggml_type type, int64_t n_per_row, std::vector<int32_t> groups,
                             std::vector<std::unique_ptr<RowsConverter>> parts)
    : n_per_row_(n_per_row),
      row_bytes_(row_bytes(type, n_per_row)),
      groups_(std::move(groups)),
      parts_(std::move(parts)) {
    std::vector<int32_t> n_rows(parts_.size(), 0);
    for (const int32_t group : groups_) {
        if (group < 0 || static_cast<size_t>(group) >= parts_.size()) {
            fail<InvalidArgument>("a row of group ", group, ", there are ", parts_.size());
        }
        places_.push_back(n_rows[static_cast<size_t>(group)]++);
    }
}

// Rows of one group that are in a unit follow each other among the group's.
void GroupedTensor::convert(const RowUnit& unit, const float* weights, uint8_t* result) {
    const int32_t* groups = groups_.data() + unit.first_row;
    const int32_t* places = places_.data() + unit.first_row;
    std::vector<float> gathered;
    std::vector<uint8_t> bytes;
    std::vector<int64_t> rows;
    for (size_t group = 0; group < parts_.size(); ++group) {
        rows.clear();
        gathered.clear();
        for (int64_t i = 0; i < unit.n_rows; ++i) {
            if (groups[i] != static_cast<int32_t>(group)) continue;
            rows.push_back(i);
            const float* row = weights + i * n_per_row_;
            gathered.insert(gathered.end(), row, row + n_per_row_);
        }
        if (rows.empty()) continue;
        RowUnit own = unit;
        own.slice = 0;
        own.first_row = places[rows.front()];
        own.n_rows = static_cast<int64_t>(rows.size());
        bytes.resize(rows.size() * row_bytes_);
        parts_[group]->convert(own, gathered.data(), bytes.data());
        for (size_t i = 0; i < rows.size(); ++i) {
            std::memcpy(result + static_cast<size_t>(rows[i]) * row_bytes_,
                        bytes.data() + i * row_bytes_, row_bytes_);
        }
    }
}

// A unit has some rows of every group. Where parts want large units, a GPU takes each group's
// moment once more for each: fewer of them, then.
int64_t GroupedTensor::weights_per_unit() const {
    const int64_t usual = RowsConverter::weights_per_unit();
    int64_t most = usual;
    for (const std::unique_ptr<RowsConverter>& part : parts_) {
        most = std::max(most, part->weights_per_unit());
    }
    return most > usual ? 4 * most : usual;
}

OutputErrors GroupedTensor::errors() const {
    OutputErrors result;
    for (const std::unique_ptr<RowsConverter>& part : parts_) {
        const OutputErrors errors = part->errors();
        result.error += errors.error;
        result.ggml_error += errors.ggml_error;
        result.signal += errors.signal;
        result.held_out_error += errors.held_out_error;
        result.held_out_ggml_error += errors.held_out_ggml_error;
        result.n_slices += errors.n_slices;
        result.n_kept += errors.n_kept;
    }
    return result;
}

}  // namespace apex
