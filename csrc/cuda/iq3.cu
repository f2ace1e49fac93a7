// The kernels of IQ3_XXS and IQ3_S.
#include "cuda/device_kernel.cuh"
#include "cuda/iq3.cuh"

APEX_INSTANTIATE_BOTH(Iq3Xxs);
APEX_INSTANTIATE_BOTH(Iq3S);
