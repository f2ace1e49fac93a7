// What quantized rows cost, summed on the device.
#pragma once

#include "core/row_error.h"
#include "cuda/rows_job.h"

namespace apex::cuda {

// After launch_rows of the same job on the same stream: errors, in device memory, receives one
// entry per row, equal to row_error() of the row and of what ggml's to_float makes of its blocks.
// Not finite where a weight or a block's scale is not.
cudaError_t launch_row_errors(ggml_type type, const RowsJob& job, RowError* errors,
                              cudaStream_t stream);

}  // namespace apex::cuda
