// Pieces of llama_model_params that the loader and its trial run share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "llama.h"

namespace apex {

// One integer override and the empty key that ends the list; empty where count is 0.
std::vector<llama_model_kv_override> expert_overrides(const std::string& architecture, int count);

// Weights that stay on the host whichever layers go to GPUs. Must outlive the parameters that point
// to overrides.
struct HostWeights {
    std::vector<std::string> patterns;
    std::vector<llama_model_tensor_buft_override> overrides;
};

// Experts of these layers, as --n-cpu-moe puts them, and the output matrix; empty where neither.
HostWeights weights_on_host(const std::vector<int>& layers, bool with_output);

// The pattern of all experts of a layer.
std::string experts_of_layer(int layer);

}  // namespace apex
