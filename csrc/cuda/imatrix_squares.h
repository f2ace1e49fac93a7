// The launches behind calibration/device_squares.h. All pointers are to the device's memory.
#pragma once

#include <cuda_runtime_api.h>

#include "calibration/device_squares.h"

namespace apex::cuda {

// room: routed_rows_bytes() where rows are routed. sums: n_all_matrices x ne0; those of matrices
// without a row are left as they are. counts: rows of each matrix. failed: set to 1 where a sum is
// not finite or an expert's number is none.
cudaError_t launch_squares(const DeviceInput& input, void* room, double* sums, int64_t* counts,
                           int* failed, cudaStream_t stream);

// Adds the sums of matrices with a row, and the first n_counts counts.
cudaError_t launch_add(const double* sums, const int64_t* counts, int64_t n_matrices,
                       int64_t n_per_row, double* total_sums, int64_t* total_counts,
                       int64_t n_counts, cudaStream_t stream);

}  // namespace apex::cuda
