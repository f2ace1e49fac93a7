// Products of stored matrices with activations, as a graph on ggml's CUDA backend computes them.
#pragma once

#include <functional>

#include "bench/kernel_bench.h"

namespace apex::cuda {

bool backend_multiplies(int device, ggml_type type);

// As KernelBench::run; samples by the host's clock around synchronised graphs, for a graph's
// kernels are on streams of the backend's own. The graph multiplies all matrices of the working
// set, one node each, so that its start costs little.
KernelResult run_mat_mul(int device, const KernelRequest& request, const KernelTile& tile,
                         const std::function<bool()>& stopped);

}  // namespace apex::cuda
