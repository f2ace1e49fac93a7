#include "cuda/runtime.h"

#include <string>

namespace apex::cuda {

void check(cudaError_t result, const char* call) {
    if (result == cudaSuccess) return;
    cudaGetLastError();  // an error that can be survived must not show up at the next call
    const std::string text(call);
    const std::string name = text.substr(0, text.find('('));
    fail<DeviceError>("the CUDA call ", name, " failed: ", cudaGetErrorString(result), " (",
                      cudaGetErrorName(result), ")");
}

void use_device(int device) {
    APEX_CUDA_CALL(cudaSetDevice(device));
}

DeviceBuffer::DeviceBuffer(size_t bytes) : size_(bytes) {
    if (bytes == 0) return;
    const cudaError_t result = cudaMalloc(&data_, bytes);
    if (result == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        size_t free_bytes = 0, total = 0;
        cudaMemGetInfo(&free_bytes, &total);
        fail<DeviceError>("the GPU has no room for ", bytes, " bytes: ", free_bytes, " of ", total,
                          " bytes are free; end what else uses it");
    }
    APEX_CUDA_CALL(result);
}

DeviceBuffer at_least(DeviceBuffer buffer, size_t bytes) {
    if (buffer.size() >= bytes) return buffer;
    buffer = DeviceBuffer();
    return DeviceBuffer(bytes);
}

PinnedBuffer::PinnedBuffer(size_t bytes) {
    if (bytes == 0) return;
    const cudaError_t result = cudaMallocHost(&data_, bytes);
    if (result == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        fail<DeviceError>("cannot pin ", bytes,
                          " bytes of host memory for the GPU; lower `max_memory` or `n_threads`");
    }
    APEX_CUDA_CALL(result);
}

}  // namespace apex::cuda
