#include "lookup.h"

#include "families.h"

namespace apex::kernels::APEX_ISA {

QuantizeRows lookup(ggml_type type, bool with_imatrix) {
    switch (type) {
#define APEX_CASE(name, function, gpu_type, block, weights, matrix) \
    case GGML_TYPE_##name:                                          \
        return function(with_imatrix);
        APEX_QUANTIZED_TYPES(APEX_CASE)
#undef APEX_CASE
        default:
            return nullptr;
    }
}

}  // namespace apex::kernels::APEX_ISA
