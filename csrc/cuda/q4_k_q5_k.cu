// The kernels of Q4_K and Q5_K.
#include "cuda/device_kernel.cuh"
#include "cuda/k_scale_min.cuh"

APEX_INSTANTIATE_BOTH(Q4_K);
APEX_INSTANTIATE_BOTH(Q5_K);
