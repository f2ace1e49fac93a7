#include "model/model_params.h"

#include <cstring>

#include "core/error.h"
#include "ggml-backend.h"

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

HostExperts experts_on_host(int64_t n_layers) {
    HostExperts found;
    if (n_layers < 1) return found;
    for (int64_t layer = 0; layer < n_layers; ++layer) {
        // LLM_FFN_EXPS_REGEX of llama.cpp's common/common.h.
        found.patterns.push_back("blk\\." + std::to_string(layer) +
                                 "\\.ffn_(up|down|gate|gate_up)_(ch|)exps");
    }
    for (const std::string& pattern : found.patterns) {
        found.overrides.push_back({pattern.c_str(), ggml_backend_cpu_buffer_type()});
    }
    found.overrides.push_back({nullptr, nullptr});
    return found;
}

}  // namespace apex
