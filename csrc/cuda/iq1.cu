// The kernels of IQ1_M and IQ1_S.
#include "cuda/device_kernel.cuh"
#include "cuda/iq1_m.cuh"
#include "cuda/iq1_s.cuh"

APEX_INSTANTIATE_BOTH(Iq1M);
APEX_INSTANTIATE_ONE(Iq1S, true);
