#include "model/model_check.h"

#include "core/error.h"
#include "core/gguf_file.h"

namespace apex {
namespace {

// llama.cpp's own limits, which it enforces by aborting (src/llama-model.cpp, load_hparams).
constexpr uint64_t kMaxBlocks = 512;
constexpr uint64_t kMaxExperts = 1024;

uint64_t unsigned_setting(const GgufHeader& header, const std::string& key, uint64_t fallback) {
    const GgufKeyValue* pair = header.find(key);
    if (pair == nullptr || pair->is_array) return fallback;
    const auto* value = std::get_if<uint64_t>(&pair->values[0]);
    return value == nullptr ? fallback : *value;
}

std::string architecture_of(const GgufFile& file, const std::string& path) {
    const GgufKeyValue* name = file.header().find("general.architecture");
    const auto* architecture =
        name == nullptr || name->is_array ? nullptr : std::get_if<std::string>(&name->values[0]);
    if (architecture == nullptr) fail<GgufError>(path, ": has no general.architecture");
    return *architecture;
}

void check_experts(const GgufFile& file, const std::string& path, const std::string& architecture,
                   int expert_used_count) {
    const uint64_t experts = unsigned_setting(file.header(), architecture + ".expert_count", 0);
    const uint64_t used = unsigned_setting(file.header(), architecture + ".expert_used_count", 0);
    if (experts > kMaxExperts) {
        fail<GgufError>(path, ": expert_count is ", experts, ", expected at most ", kMaxExperts);
    }
    if (used > experts) {
        fail<GgufError>(path, ": expert_used_count ", used, " exceeds expert_count ", experts);
    }
    if (expert_used_count < 0 || static_cast<uint64_t>(expert_used_count) > experts) {
        fail<InvalidArgument>("expert_used_count: expected 1 to ", experts,
                              " (the model's experts), found ", expert_used_count);
    }
}

uint64_t layer_bytes(const GgufFile& file) {
    uint64_t bytes = 0;
    for (const ShardTensor& tensor : file.tensors()) {
        if (tensor.entry.name != "token_embd.weight") bytes += tensor.entry.n_bytes;
    }
    return bytes;
}

}  // namespace

ModelFile check_model_file(const std::string& path, int expert_used_count) {
    const GgufFile file(path);
    if (!file.has_data()) {
        fail<GgufError>(path, ": holds the header only, there is nothing to load");
    }
    std::string architecture = architecture_of(file, path);
    const uint64_t blocks = unsigned_setting(file.header(), architecture + ".block_count", 0);
    if (blocks < 1 || blocks > kMaxBlocks) {
        fail<GgufError>(path, ": ", architecture, ".block_count is ", blocks, ", expected 1 to ",
                        kMaxBlocks);
    }
    check_experts(file, path, architecture, expert_used_count);
    return {std::move(architecture), blocks, layer_bytes(file)};
}

}  // namespace apex
