// Pieces of llama_model_params that the loader and its trial run share.
#pragma once

#include <string>
#include <vector>

#include "llama.h"

namespace apex {

// One integer override and the empty key that ends the list; empty where count is 0.
std::vector<llama_model_kv_override> expert_overrides(const std::string& architecture, int count);

}  // namespace apex
