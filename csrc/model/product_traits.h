// A product of ours as ggml's CPU backend asks for it.
#pragma once

#include "ggml-cpu.h"
#include "model/work_buffer.h"
#include "traits.h"

namespace apex {

// Workspace(shape, n_threads, begin) lays out ggml's work buffer, Product(params, op) computes.
template <typename Workspace, typename Product>
class ProductTraits : public ggml::cpu::tensor_traits {
  public:
    bool work_size(int n_threads, const ggml_tensor* op, size_t& size) override {
        size = Workspace(MatmulShape(op), n_threads, 0).n_bytes + kWorkLine;
        return true;
    }
    bool compute_forward(ggml_compute_params* params, ggml_tensor* op) override {
        Product(params, op).compute();
        return true;
    }
};

}  // namespace apex
