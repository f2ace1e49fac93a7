// What a model file must be before llama.cpp may load it: its loader aborts on some settings.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace apex {

struct ModelFile {
    std::string architecture;         // general.architecture
    std::vector<std::string> shards;  // llama.cpp opens the first, whichever was named
    uint64_t n_blocks = 0;
    // All tensors but the token embedding, which stays on the host wherever the layers go
    // (src/llama-model.cpp, dev_input).
    uint64_t layer_bytes = 0;
};

// Throws GgufError naming the setting, what is allowed and found;
// InvalidArgument where expert_used_count (0: the file's own) is more than the model has experts.
ModelFile check_model_file(const std::string& path, int expert_used_count = 0);

}  // namespace apex
