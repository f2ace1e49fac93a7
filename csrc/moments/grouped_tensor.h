// A tensor whose rows are quantized in groups, each under a moment of its own.
#pragma once

#include <memory>
#include <vector>

#include "core/rows_converter.h"
#include "ggml.h"

namespace apex {

class GroupedTensor : public RowsConverter {
  public:
    // groups: of each row; parts[i] converts the rows of group i, in their order, as one tensor
    // (rows_of_group). Throws InvalidArgument for a group without a part.
    GroupedTensor(ggml_type type, int64_t n_per_row, std::vector<int32_t> groups,
                  std::vector<std::unique_ptr<RowsConverter>> parts);

    void convert(const RowUnit& unit, const float* weights, uint8_t* result) override;
    int64_t weights_per_unit() const override;
    OutputErrors errors() const override;  // all parts together

  private:
    int64_t n_per_row_;
    size_t row_bytes_;
    std::vector<int32_t> groups_;
    std::vector<int32_t> places_;  // of each row among those of its group
    std::vector<std::unique_ptr<RowsConverter>> parts_;
};

}  // namespace apex
