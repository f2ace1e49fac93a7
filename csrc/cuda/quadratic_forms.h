// (w - q) H (w - q)^T of rows, beside the rows: the numbers of moments/quadratic_form.h, added in
// the same order. Pointers to the device's memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "ggml.h"

namespace apex::cuda {

// errors = weights - what the bytes say, n_rows x n.
cudaError_t launch_differences(ggml_type type, const uint8_t* bytes, const float* weights,
                               int64_t n_rows, int64_t n, float* errors, cudaStream_t stream);

// per_row[i] of n_rows rows under an n x n moment; products: room for n x n_rows.
cudaError_t launch_forms(const float* moment, int n, const float* rows, int n_rows,
                         double* products, double* per_row, cudaStream_t stream);

// Rows of row_bytes that reached less than the least so far take their place, and so does what they
// reached.
cudaError_t launch_keep_less(const double* reached, const uint8_t* rows, int n_rows,
                             size_t row_bytes, double* least, uint8_t* kept, cudaStream_t stream);

}  // namespace apex::cuda
