// BF16 and F16 weights multiplied by our kernels inside ggml's CPU backend: on x86 the same bits in
// less time, on 64-bit ARM the bits of x86 (BF16 only).
#pragma once

namespace apex {

// To be called once, before anything computes; does nothing where there is no kernel, where ggml
// offers no place for it, or where, on x86, a self-test finds a bit that differs from ggml's own
// product.
//
// llama.cpp's CPU backend asks its "extra buffer types" about every operation before it computes it
// itself (ggml/src/ggml-cpu/traits.cpp). The pinned source is not patched: the first of those types
// is given a context that asks the original first and then looks for products with these weights.
void install_bf16_matmul();

// Whether it took effect, for each type.
bool has_bf16_matmul();
bool has_f16_matmul();

}  // namespace apex
