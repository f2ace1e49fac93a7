// The kernels a CPU computes with: ggml's dot products and dequantizers, our quantizers.
#pragma once

#include <memory>

#include "bench/kernel_bench.h"

namespace apex {

std::unique_ptr<KernelBench> cpu_kernel_bench();

}  // namespace apex
