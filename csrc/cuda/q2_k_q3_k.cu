// The kernels of Q2_K and Q3_K.
#include "cuda/device_kernel.cuh"
#include "cuda/q2_k.cuh"
#include "cuda/q3_k.cuh"

APEX_INSTANTIATE_BOTH(Q2_K);
APEX_INSTANTIATE_BOTH(Q3_K);
