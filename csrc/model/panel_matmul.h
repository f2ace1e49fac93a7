// Quantized weights multiplied by our kernels for AVX-512 VNNI inside ggml's CPU backend: the bits
// of ggml's own tiled products, as this project compiles them for AVX2, in less time.
#pragma once

#include <memory>

#include "ggml.h"
#include "kernels/kernels.h"

namespace ggml::cpu {
class tensor_traits;
}

namespace apex {

// What computes operations for which is_panel_product holds; nullptr where there is no kernel.
std::unique_ptr<ggml::cpu::tensor_traits> make_panel_traits(kernels::Isa isa);
// Whether ggml itself would compute an operation with its tiled products, and we can.
bool is_panel_product(const ggml_tensor* op);

// For a self-test that finds other bits: from now on products of this type are ggml's.
void leave_panels_to_ggml(ggml_type type);
// Whether products of this type are ours.
bool has_panel_matmul(ggml_type type);

}  // namespace apex
