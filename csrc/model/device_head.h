// A model's head on a GPU: its weights alone are there, copied from the file.
#pragma once

#include <memory>

#include "ggml-cpp.h"
#include "model/lm_head.h"

namespace apex {

class DeviceHead {
  public:
    // Null where the GPU cannot compute one of its steps. Throws DeviceError where it has no room.
    static std::unique_ptr<DeviceHead> make(const LmHead& head, ggml_backend_dev_t device);

    // n hidden states to n rows of logits in the GPU's memory, valid until the next call. Throws
    // DeviceError.
    const float* compute(const float* hidden, int64_t n);

  private:
    DeviceHead(const LmHead& head, ggml_backend_dev_t device);
    bool is_supported();
    void build(int64_t n);

    HeadRecipe recipe_;
    int64_t n_embd_;
    ggml_backend_dev_t device_;
    ggml_backend_ptr backend_;
    ggml_context_ptr weights_context_;
    ggml_backend_buffer_ptr weights_buffer_;
    std::vector<ggml_tensor*> weights_;
    ggml_gallocr_ptr allocator_;
    ggml_context_ptr graph_context_;
    ggml_cgraph* graph_ = nullptr;
    ggml_tensor *hidden_ = nullptr, *logits_ = nullptr;
    int64_t n_ = 0;  // rows the graph is for
};

}  // namespace apex
