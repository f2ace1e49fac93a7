// Products of weights that our kernels compute inside ggml's CPU backend.
#pragma once

namespace apex {

// To be called before anything computes; its first call takes some milliseconds. Does nothing where
// there is no kernel, where ggml offers no place for it, or where a self-test finds a bit that
// differs from ggml's own product.
//
// llama.cpp's CPU backend asks its "extra buffer types" about every operation before it computes it
// itself (ggml/src/ggml-cpu/traits.cpp). The pinned source is not patched: the first of those types
// is given a context that asks the original first and then looks for products that are ours.
void install_own_products();

}  // namespace apex
