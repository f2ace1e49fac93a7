// Pieces of llama_model_params that the loader and its trial run share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "llama.h"

namespace apex {

// One integer override and the empty key that ends the list; empty where count is 0.
std::vector<llama_model_kv_override> expert_overrides(const std::string& architecture, int count);

// Experts of the first layers on the host, as --n-cpu-moe puts them; empty where n_layers is 0.
// Must outlive the parameters that point to overrides.
struct HostExperts {
    std::vector<std::string> patterns;
    std::vector<llama_model_tensor_buft_override> overrides;
};
HostExperts experts_on_host(int64_t n_layers);

}  // namespace apex
