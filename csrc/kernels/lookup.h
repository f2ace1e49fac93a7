// One lookup per instruction set; quantize_rows picks between them.
#pragma once

#include "kernels.h"

namespace apex::kernels::neon {
QuantizeRows lookup(ggml_type type, bool with_imatrix);
}
namespace apex::kernels::avx2 {
QuantizeRows lookup(ggml_type type, bool with_imatrix);
}
namespace apex::kernels::avx512 {
QuantizeRows lookup(ggml_type type, bool with_imatrix);
}
