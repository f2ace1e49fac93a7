#include "lookup.h"

#include "families.h"

namespace apex::kernels::APEX_ISA {

QuantizeRows lookup(ggml_type type, bool with_imatrix) {
    switch (type) {
        case GGML_TYPE_Q8_0:
            return q8_0();
        case GGML_TYPE_Q6_K:
            return q6_k(with_imatrix);
        case GGML_TYPE_Q5_K:
            return q5_k(with_imatrix);
        case GGML_TYPE_Q4_K:
            return q4_k(with_imatrix);
        case GGML_TYPE_Q3_K:
            return q3_k(with_imatrix);
        case GGML_TYPE_Q2_K:
            return q2_k(with_imatrix);
        case GGML_TYPE_IQ4_XS:
            return iq4_xs(with_imatrix);
        case GGML_TYPE_IQ4_NL:
            return iq4_nl(with_imatrix);
        case GGML_TYPE_IQ3_S:
            return iq3_s(with_imatrix);
        case GGML_TYPE_IQ3_XXS:
            return iq3_xxs(with_imatrix);
        case GGML_TYPE_IQ2_S:
            return iq2_s(with_imatrix);
        case GGML_TYPE_IQ2_XS:
            return iq2_xs(with_imatrix);
        case GGML_TYPE_IQ2_XXS:
            return iq2_xxs(with_imatrix);
        case GGML_TYPE_IQ1_M:
            return iq1_m(with_imatrix);
        case GGML_TYPE_IQ1_S:
            return iq1_s(with_imatrix);
        default:
            return nullptr;
    }
}

}  // namespace apex::kernels::APEX_ISA
