// Cuts tensors into units of whole rows that never cross an expert: the grain of all parallel work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace apex {

// 64 Ki weights: 256 KiB of floats, which with the source and the result stay in a core's L2, and
// enough work (50 us at the fastest type, 50 ms at the slowest) that handing out units costs
// nothing and a cancelled job stops at once.
inline constexpr int64_t kWeightsPerUnit = 64 * 1024;

struct RowUnit {
    size_t tensor = 0;
    int64_t slice = 0;      // expert
    int64_t first_row = 0;  // within the slice
    int64_t n_rows = 0;
};

struct TensorRows {
    int64_t n_per_row = 0;
    int64_t rows_per_slice = 0;
    int64_t n_slices = 0;
    int64_t weights_per_unit = kWeightsPerUnit;  // at least one row, at most a slice

    int64_t n_rows() const { return rows_per_slice * n_slices; }

    // The number in the tensor of a unit's first row.
    int64_t first_row(const RowUnit& unit) const {
        return unit.slice * rows_per_slice + unit.first_row;
    }
};

class RowUnits {
  public:
    explicit RowUnits(std::vector<TensorRows> tensors);

    int64_t size() const { return first_unit_.back(); }
    int64_t size(size_t tensor) const { return first_unit_[tensor + 1] - first_unit_[tensor]; }
    RowUnit operator[](int64_t unit) const;
    const TensorRows& tensor(size_t index) const { return tensors_[index]; }

    // Rows in the largest unit of a tensor.
    int64_t max_rows(size_t tensor) const { return rows_per_unit(tensors_[tensor]); }

    // The largest unit of all, in weights: what a worker's buffers must hold.
    int64_t max_weights() const;

  private:
    int64_t rows_per_unit(const TensorRows& tensor) const;
    int64_t units_per_slice(const TensorRows& tensor) const;

    std::vector<TensorRows> tensors_;
    std::vector<int64_t> first_unit_;  // prefix sums, one more than tensors
};

}  // namespace apex
