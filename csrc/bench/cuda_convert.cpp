#include "bench/cuda_convert.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// As ggml/src/ggml-cuda/convert.cuh declares them; that header needs nvcc to be read.
template <typename T>
using ConvertTo = void (*)(const void* from, T* to, int64_t n, cudaStream_t stream);
ConvertTo<half> ggml_get_to_fp16_cuda(ggml_type type);
ConvertTo<nv_bfloat16> ggml_get_to_bf16_cuda(ggml_type type);
ConvertTo<float> ggml_get_to_fp32_cuda(ggml_type type);

namespace apex::cuda {

bool can_convert(KernelOperation operation, ggml_type type) {
    switch (operation) {
        case KernelOperation::to_half:
            return ggml_get_to_fp16_cuda(type) != nullptr;
        case KernelOperation::to_bfloat:
            return ggml_get_to_bf16_cuda(type) != nullptr;
        default:
            return ggml_get_to_fp32_cuda(type) != nullptr;
    }
}

void launch_convert(KernelOperation operation, ggml_type type, const void* from, void* to,
                    int64_t n, cudaStream_t stream) {
    switch (operation) {
        case KernelOperation::to_half:
            return ggml_get_to_fp16_cuda(type)(from, static_cast<half*>(to), n, stream);
        case KernelOperation::to_bfloat:
            return ggml_get_to_bf16_cuda(type)(from, static_cast<nv_bfloat16*>(to), n, stream);
        default:
            return ggml_get_to_fp32_cuda(type)(from, static_cast<float*>(to), n, stream);
    }
}

}  // namespace apex::cuda
