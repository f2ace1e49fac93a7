// Products that ggml computes with what it has at the moment: before and after ours are installed.
#pragma once

#include <vector>

#include "ggml.h"

namespace apex {

using Samples = std::vector<float>;

// Of weights of any codes, scales and magnitudes; with plain and with routed columns, one of whose
// matrices has too few for a panel.
Samples sample_products(ggml_type type);

bool same_bits(const Samples& a, const Samples& b);

}  // namespace apex
