// The columns of a product of weights in ggml's CPU backend: which inputs, and where results go.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ggml.h"

namespace apex {

// MUL_MAT, or MUL_MAT_ID, whose tokens go to some of its matrices.
struct MatmulShape {
    const ggml_tensor *weights, *input, *ids, *output;  // ids: nullptr of MUL_MAT

    explicit MatmulShape(const ggml_tensor* op);

    int64_t n_per_row() const { return weights->ne[0]; }
    int64_t n_rows() const { return weights->ne[1]; }
    int64_t n_matrices() const { return weights->ne[2]; }
    int64_t n_inputs() const { return ggml_nrows(input); }
    int64_t n_columns() const { return ids ? ids->ne[0] * ids->ne[1] : n_inputs(); }
    const float* input_row(int64_t i) const;
    const char* weight_row(int64_t matrix, int64_t row) const;
};

bool is_matmul(const ggml_tensor* op);
// Floats in and out, rows without gaps between their values, matrices that no batch shares out.
bool has_plain_rows(const MatmulShape& shape);

// Sorted by matrix. Memory is the caller's: n_matrices + 1 and n_columns long.
struct MatmulColumns {
    int64_t* first;       // column of each matrix, and the end
    const void** inputs;  // rows made ready
    float** outputs;

    int64_t n_of(int64_t matrix) const { return first[matrix + 1] - first[matrix]; }
    // ready: all input rows made ready, one after the other. An id outside the matrices has no
    // column (ggml would read past its tables).
    void list(const MatmulShape& shape, const char* ready, size_t bytes_of_input) const;
};

}  // namespace apex
