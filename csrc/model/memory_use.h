// How much memory a model and a context of it take; without taking it, if the model has no weights.
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

// The model's GPUs in its order, then the host. Of a model of no_alloc llama.cpp plans its buffers
// and does not allocate them; of another one they are what it allocated, after n_tokens were
// computed in batches. Throws what a Context throws, InvalidArgument for tokens without weights or
// more of them than the context has.
std::vector<DeviceMemoryUse> memory_use(const std::shared_ptr<Model>& model,
                                        const ContextOptions& options, uint32_t n_tokens = 0);

}  // namespace apex
