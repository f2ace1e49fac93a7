// Does a kernel give the bits of ggml's own product of 16-bit rows, as it was compiled here?
#pragma once

#include "ggml.h"
#include "kernels/bf16_products.h"

namespace apex {

// type: BF16 or F16. Tried on rows of all magnitudes, products that vanish and products that
// overflow included.
bool equals_ggml(kernels::Bf16Products products, ggml_type type);

}  // namespace apex
