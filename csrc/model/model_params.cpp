#include "model/model_params.h"

#include <cstring>

#include "core/error.h"

namespace apex {

std::vector<llama_model_kv_override> expert_overrides(const std::string& architecture, int count) {
    std::vector<llama_model_kv_override> overrides;
    if (count == 0) return overrides;
    overrides.resize(2);
    std::memset(overrides.data(), 0, 2 * sizeof(llama_model_kv_override));
    const std::string key = architecture + ".expert_used_count";
    if (key.size() >= sizeof(overrides[0].key)) {
        fail<GgufError>("general.architecture is too long: ", architecture.size(), " bytes");
    }
    overrides[0].tag = LLAMA_KV_OVERRIDE_TYPE_INT;
    std::memcpy(overrides[0].key, key.c_str(), key.size() + 1);
    overrides[0].val_i64 = count;
    return overrides;
}

}  // namespace apex
