// Products of experts on a GPU in the place of llama.cpp's where those are slow.
#pragma once

#include <map>
#include <memory>

#include "core/device_products.h"

namespace apex {

// For many rows times F16 or BF16 experts llama.cpp's CUDA backend sorts the rows on the host, by
// going over all of them for every expert, and launches several kernels for each expert
// (ggml-cuda.cu, ggml_cuda_mul_mat_id): a batch of 2,048 tokens through 40 layers of 256 experts
// then takes a second, whatever the GPU. Quantized experts have a kernel for all of it.
//
// A node that is taken is passed over by the backend, which does not compute nodes without an
// operation, and computed when the graph has come to it. Asked about and shown nodes by a Context.
class RoutedProducts {
  public:
    // Is this one computed here? Then it must be shown once the graph has come to it.
    bool take(ggml_tensor* node);

    // Computes the node if it was taken. Throws ModelError, DeviceError.
    void compute(ggml_tensor* node);

    // A node that was taken and never came is the graph's again.
    void give_back();

  private:
    DeviceProducts* products_on(int device);

    std::map<int, std::unique_ptr<DeviceProducts>> products_;  // null: the GPU cannot
    ggml_tensor* taken_ = nullptr;
    int device_ = -1;
};

}  // namespace apex
