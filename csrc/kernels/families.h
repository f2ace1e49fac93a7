// The kernels of one instruction set; nullptr where a matrix is required but missing.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace apex::kernels::APEX_ISA {

QuantizeRows q8_0();
QuantizeRows q6_k(bool with_imatrix);
QuantizeRows q5_k(bool with_imatrix);
QuantizeRows q4_k(bool with_imatrix);
QuantizeRows q3_k(bool with_imatrix);
QuantizeRows q2_k(bool with_imatrix);
QuantizeRows iq4_xs(bool with_imatrix);
QuantizeRows iq4_nl(bool with_imatrix);
QuantizeRows iq3_s(bool with_imatrix);
QuantizeRows iq3_xxs(bool with_imatrix);
QuantizeRows iq2_s(bool with_imatrix);
QuantizeRows iq2_xs(bool with_imatrix);
QuantizeRows iq2_xxs(bool with_imatrix);
QuantizeRows iq1_m(bool with_imatrix);
QuantizeRows iq1_s(bool with_imatrix);

}  // namespace apex::kernels::APEX_ISA
