// How much memory a model and a context of it take, without taking it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/context.h"

namespace apex {

// Bytes on one device, as ggml names it; on the host where the name is empty.
struct DeviceMemoryUse {
    std::string device;
    uint64_t weights = 0;
    uint64_t context = 0;  // KV cache and recurrent states
    uint64_t compute = 0;  // the largest graph's
    uint64_t free = 0;     // now; 0 for the host
};

// The model's GPUs in its order, then the host. The model is one of no_alloc: llama.cpp then plans
// its buffers and does not allocate them. Throws what a Context throws.
std::vector<DeviceMemoryUse> memory_use(const std::shared_ptr<Model>& model,
                                        const ContextOptions& options);

}  // namespace apex
