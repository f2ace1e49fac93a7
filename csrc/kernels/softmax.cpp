#include "softmax.h"

namespace apex::kernels {

namespace softmax_portable {
const SoftmaxLoops& loops();
}
namespace softmax_avx2 {
const SoftmaxLoops& loops();
}
namespace softmax_avx512 {
const SoftmaxLoops& loops();
}

const SoftmaxLoops& softmax_loops([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::avx512) return softmax_avx512::loops();
    if (isa == Isa::avx2) return softmax_avx2::loops();
#endif
    return softmax_portable::loops();
}

double add_lanes(const double* lanes) {
    double eight[8];
    for (int i = 0; i < 8; ++i) eight[i] = lanes[i] + lanes[i + 8];
    return ((eight[0] + eight[4]) + (eight[2] + eight[6])) +
           ((eight[1] + eight[5]) + (eight[3] + eight[7]));
}

}  // namespace apex::kernels
