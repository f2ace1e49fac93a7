#include "core/error.h"
#include "cuda/kernel_bench.h"

namespace apex {

std::unique_ptr<KernelBench> cuda_kernel_bench() {
    fail<InvalidArgument>(
        "measuring the kernels of a GPU needs a CUDA build; reinstall with "
        "`pip install . -Ccmake.define.APEX_CUDA=ON`, or leave out --device cuda");
}

}  // namespace apex
