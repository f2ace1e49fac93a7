// Does a kernel give the bits of ggml's own product of BF16 rows, as it was compiled here?
#pragma once

#include "kernels/bf16_products.h"

namespace apex {

// Tried on rows of all magnitudes, products that vanish and products that overflow included.
bool equals_ggml(kernels::Bf16Products products);

}  // namespace apex
