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

std::string experts_of_layer(int layer) {
    // LLM_FFN_EXPS_REGEX of llama.cpp's common/common.h.
    return "blk\\." + std::to_string(layer) + "\\.ffn_(up|down|gate|gate_up)_(ch|)exps";
}

HostWeights weights_on_host(const std::vector<int>& layers, bool with_output) {
    HostWeights found;
    for (const int layer : layers) found.patterns.push_back(experts_of_layer(layer));
    // Of tied embeddings too.
    if (with_output) found.patterns.push_back("^(output|token_embd)\\.weight$");
    if (found.patterns.empty()) return found;
    for (const std::string& pattern : found.patterns) {
        found.overrides.push_back({pattern.c_str(), ggml_backend_cpu_buffer_type()});
    }
    found.overrides.push_back({nullptr, nullptr});
    return found;
}

}  // namespace apex
