// The kernels of one instruction set; nullptr where a matrix is required but missing.
#pragma once

#include "kernels.h"
#include "quantized_types.h"
#include "simd.h"

namespace apex::kernels::APEX_ISA {

#define APEX_DECLARE(name, function, gpu_type, block, weights, matrix) \
    QuantizeRows function(bool with_imatrix);
APEX_QUANTIZED_TYPES(APEX_DECLARE)
#undef APEX_DECLARE

}  // namespace apex::kernels::APEX_ISA
