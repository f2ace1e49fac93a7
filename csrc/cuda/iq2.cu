// The kernels of IQ2_XXS, IQ2_XS and IQ2_S.
#include "cuda/device_kernel.cuh"
#include "cuda/iq2.cuh"

APEX_INSTANTIATE_ONE(Iq2Xxs, true);
APEX_INSTANTIATE_ONE(Iq2Xs, true);
APEX_INSTANTIATE_BOTH(Iq2S);
