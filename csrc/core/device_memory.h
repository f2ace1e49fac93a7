// Where an address lies, and how to get at what is there. Implemented by csrc/cuda; a build without
// CUDA has cuda/no_cuda_model.cpp.
#pragma once

#include <cstddef>

namespace apex {

// The GPU whose memory an address lies in; -1: the host's, or a build without CUDA.
int device_of(const void* address);

// Throws DeviceError.
void copy_to_host(void* to, const void* from, size_t bytes);

}  // namespace apex
