// Where an address lies, and how to get at what is there. Implemented by csrc/cuda; a build without
// CUDA has cuda/no_cuda_model.cpp.
#pragma once

#include <cstddef>
#include <memory>

namespace apex {

// The GPU whose memory an address lies in; -1: the host's, or a build without CUDA.
int device_of(const void* address);

// Throws DeviceError.
void copy_to_host(void* to, const void* from, size_t bytes);

// Memory of the host that every GPU reads and writes without a detour. Throws DeviceError.
std::shared_ptr<void> make_pinned(size_t bytes);

}  // namespace apex
