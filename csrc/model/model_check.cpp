#include "model/model_check.h"

#include <algorithm>
#include <cstdlib>

#include "core/error.h"
#include "core/gguf_file.h"
#include "ggml-cpu.h"

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

std::string text_setting(const GgufHeader& header, const std::string& key) {
    const GgufKeyValue* pair = header.find(key);
    if (pair == nullptr || pair->is_array) return "";
    const auto* value = std::get_if<std::string>(&pair->values[0]);
    return value == nullptr ? "" : *value;
}

// Files of this format that hold no model.
void check_kind(const GgufFile& file, const std::string& path) {
    const std::string type = text_setting(file.header(), "general.type");
    const std::string architecture = text_setting(file.header(), "general.architecture");
    const auto refuse = [&](const char* what) {
        fail<GgufError>(path, ": holds ", what, ", no model that computes text; name the model");
    };
    if (type == "imatrix") refuse("an importance matrix");
    if (type == "adapter") refuse("a LoRA adapter");
    if (type == "controlvector" || architecture == "controlvector") refuse("a control vector");
    if (type == "mmproj" || architecture == "clip") refuse("an image or audio encoder (mmproj)");
}

std::string architecture_of(const GgufFile& file, const std::string& path) {
    std::string architecture = text_setting(file.header(), "general.architecture");
    if (architecture.empty()) {
        fail<GgufError>(path,
                        ": has no general.architecture, so it is no model that can be loaded");
    }
    return architecture;
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

// Rotary sections (of time, height and width) share the pairs of rotated dimensions; llama.cpp
// reads past them where they are more.
void check_rope(const GgufFile& file, const std::string& path, const std::string& architecture) {
    const GgufKeyValue* pair = file.header().find(architecture + ".rope.dimension_sections");
    const uint64_t rotated =
        unsigned_setting(file.header(), architecture + ".rope.dimension_count", 0);
    if (pair == nullptr || !pair->is_array || rotated == 0) return;
    uint64_t sum = 0;
    for (const auto& value : pair->values) {
        if (const auto* section = std::get_if<uint64_t>(&value)) sum += *section;
        if (const auto* section = std::get_if<int64_t>(&value)) {
            sum += static_cast<uint64_t>(std::max<int64_t>(*section, 0));
        }
    }
    if (2 * sum <= rotated) return;
    fail<GgufError>(path, ": rope.dimension_sections add up to ", sum, " pairs, and ",
                    "rope.dimension_count is ", rotated,
                    ": at most half of it; convert the model again");
}

// ggml's norms abort on a negative or NaN epsilon, on a thread of their own.
void check_norms(const GgufFile& file, const std::string& path) {
    const std::string end = "epsilon";
    for (const GgufKeyValue& pair : file.header().key_values) {
        const std::string& key = pair.key;
        const bool is_epsilon =
            key.size() > end.size() && key.compare(key.size() - end.size(), end.size(), end) == 0;
        if (!is_epsilon || pair.is_array) continue;
        const auto* value = std::get_if<double>(&pair.values[0]);
        if (value == nullptr || *value >= 0) continue;
        fail<GgufError>(path, ": ", key, " is ", *value,
                        ", expected 0 or more; convert the model again");
    }
}

// The number in "blk.<number>.", or -1.
int64_t block_of(const std::string& name) {
    const std::string prefix = "blk.";
    if (name.compare(0, prefix.size(), prefix) != 0) return -1;
    return std::strtoll(name.c_str() + prefix.size(), nullptr, 10);
}

// Draft models are published as the last block alone; llama.cpp looks for the ones before it.
void check_trunk(const GgufFile& file, const std::string& path, const std::string& architecture,
                 uint64_t n_blocks) {
    const uint64_t nextn =
        unsigned_setting(file.header(), architecture + ".nextn_predict_layers", 0);
    if (nextn == 0) return;
    const auto trunk = static_cast<int64_t>(n_blocks - std::min(nextn, n_blocks));
    bool has_blocks = false;
    for (const ShardTensor& tensor : file.tensors()) {
        const int64_t block = block_of(tensor.entry.name);
        if (block >= 0 && block < trunk) return;
        has_blocks = has_blocks || block >= 0;
    }
    if (!has_blocks) return;
    fail<GgufError>(path, ": holds blocks of multi-token prediction only, and the model has ",
                    n_blocks, "; name the file with all of them");
}

// Tables of indices, which llama.cpp looks up and never multiplies.
bool holds_indices(const std::string& name) {
    for (const char* table : {"ffn_gate_tid2eid", "d2t", "masked_embd_ordering"}) {
        if (name.find(table) != std::string::npos) return true;
    }
    return false;
}

// Types without a product (integers, F64, types of activations) make ggml call a null pointer; it
// adds and scales by vectors of three types only, and aborts on others on a thread of its own.
void check_types(const GgufFile& file, const std::string& path) {
    for (const ShardTensor& tensor : file.tensors()) {
        const GgufTensor& entry = tensor.entry;
        const ggml_type type = entry.type;
        if (holds_indices(entry.name)) continue;
        const bool is_float =
            type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
        const bool is_added = entry.n_rows() == 1 && entry.name.find("_inp") == std::string::npos;
        if (ggml_get_type_traits_cpu(type)->vec_dot == nullptr || (is_added && !is_float)) {
            fail<GgufError>(path, ": tensor '", entry.name, "' is stored as ", ggml_type_name(type),
                            ", which llama.cpp cannot compute with; convert the model again");
        }
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
        fail<GgufError>(file.missing_data(), ", there is nothing to load; download the whole file");
    }
    check_kind(file, path);
    std::string architecture = architecture_of(file, path);
    const uint64_t blocks = unsigned_setting(file.header(), architecture + ".block_count", 0);
    if (blocks < 1 || blocks > kMaxBlocks) {
        fail<GgufError>(path, ": ", architecture, ".block_count is ", blocks, ", expected 1 to ",
                        kMaxBlocks);
    }
    check_experts(file, path, architecture, expert_used_count);
    check_rope(file, path, architecture);
    check_norms(file, path);
    check_trunk(file, path, architecture, blocks);
    check_types(file, path);
    return {std::move(architecture), file.shard_paths(), blocks, layer_bytes(file)};
}

}  // namespace apex
