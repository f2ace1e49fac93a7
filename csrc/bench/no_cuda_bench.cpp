#include "bench/cuda_kernel_bench.h"
#include "core/error.h"

namespace apex {

std::unique_ptr<KernelBench> cuda_kernel_bench() {
    fail<InvalidArgument>(
        "measuring the kernels of a GPU needs a CUDA build; reinstall with "
        "`pip install . -Ccmake.define.APEX_CUDA=ON`, or measure the CPU");
}

}  // namespace apex
