// The kernels of IQ4_NL and IQ4_XS.
#include "cuda/device_kernel.cuh"
#include "cuda/iq4.cuh"

APEX_INSTANTIATE_BOTH(Iq4Nl);
APEX_INSTANTIATE_BOTH(Iq4Xs);
