// Products of routed rows with the matrices of their experts, on a GPU. Implemented by csrc/cuda; a
// build without CUDA has cuda/no_cuda_model.cpp.
#pragma once

#include <memory>

#include "core/device_input.h"
#include "ggml.h"

namespace apex {

// A MUL_MAT_ID node: every row of `rows` meets the matrix of its expert. Pointers into the GPU's
// memory.
struct DeviceRoutedProduct {
    DeviceInput rows;  // with experts; ne[0] floats each
    const void* weights = nullptr;
    ggml_type type = GGML_TYPE_F16;  // or BF16
    int64_t n_out = 0;               // rows of a matrix, contiguous
    size_t matrix_bytes = 0;         // from one matrix to the next
    float* result = nullptr;         // [n_out, n_used, n_tokens]
    size_t result_nb[2] = {};        // bytes between slots, and between tokens
};

// Inputs are rounded to the weights' type, products added in float in the order of the columns:
// what a row gives does not depend on the others. Used by one thread.
class DeviceProducts {
  public:
    virtual ~DeviceProducts() = default;

    // Can it compute this one?
    virtual bool takes(const DeviceRoutedProduct& product) const = 0;

    // Returns when the result is there; false where an expert's number is none. Throws DeviceError.
    virtual bool compute(const DeviceRoutedProduct& product) = 0;
};

// Null where the GPU is too old.
std::unique_ptr<DeviceProducts> make_device_products(int device);

}  // namespace apex
