// BF16 and F16 weights multiplied by our kernels inside ggml's CPU backend: on x86 the same bits in
// less time, on 64-bit ARM the bits of x86 (BF16 only).
#pragma once

#include <memory>

#include "ggml.h"
#include "kernels/kernels.h"

namespace ggml::cpu {
class tensor_traits;
}

namespace apex {

// What computes operations for which is_bf16_product holds; nullptr where there is no kernel or, on
// x86, where a self-test finds a bit that differs from ggml's own product.
std::unique_ptr<ggml::cpu::tensor_traits> make_bf16_traits(kernels::Isa isa);
bool is_bf16_product(const ggml_tensor* op);

// Whether it took effect, for each type.
bool has_bf16_matmul();
bool has_f16_matmul();

}  // namespace apex
