// The kernels of Q8_0 and Q6_K.
#include "cuda/device_kernel.cuh"
#include "cuda/q6_k.cuh"
#include "cuda/q8_0.cuh"

APEX_INSTANTIATE_ONE(Q8_0, false);
APEX_INSTANTIATE_BOTH(Q6_K);
