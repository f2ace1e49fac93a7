// Stored weights of any type to float, exactly.
#pragma once

#include <cstdint>

#include "ggml.h"

namespace apex {

// n weights of src (n a multiple of the type's block) to dst. F16 and BF16 widen without rounding;
// block types go through ggml's own to_float. The type must satisfy is_readable_source.
void convert_to_float(ggml_type type, const void* src, float* dst, int64_t n);

}  // namespace apex
