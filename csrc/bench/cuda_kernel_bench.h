// The kernels a GPU computes with: ggml's dequantizers and matrix products, our quantizers.
#pragma once

#include <memory>

#include "bench/kernel_bench.h"

namespace apex {

// On the first GPU. Throws DeviceError where there is none, InvalidArgument in a build without
// ggml's CUDA backend.
std::unique_ptr<KernelBench> cuda_kernel_bench();

}  // namespace apex
