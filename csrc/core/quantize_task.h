// One tensor to quantize: where it is read, what it becomes and where it is written.
#pragma once

#include <cstdint>

#include "core/row_source.h"
#include "core/rows_converter.h"
#include "ggml.h"

namespace apex {

struct QuantizeTask {
    StoredTensor source;
    ggml_type target_type = GGML_TYPE_COUNT;  // equal to the source type: the bytes are copied
    int output_fd = -1;
    uint64_t output_offset = 0;
    const float* imatrix = nullptr;      // n_slices * n_per_row values, or null
    RowsConverter* converter = nullptr;  // quantizes the rows in place of quantize_rows, or null

    bool is_copy() const { return target_type == source.type; }

    // The importances of a slice's columns, or null.
    const float* slice_imatrix(int64_t slice) const {
        return imatrix == nullptr ? nullptr : imatrix + slice * source.rows.n_per_row;
    }
};

}  // namespace apex
