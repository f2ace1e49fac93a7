#include "core/gguf_file.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <unordered_set>

#include "core/error.h"

namespace apex {
namespace {

constexpr uint64_t kMaxShards = 99999;  // five digits in the name

// A small unsigned setting of the splitter, or fallback where the key is absent.
uint64_t split_setting(const GgufHeader& header, const char* key, uint64_t fallback,
                       const std::string& path) {
    const GgufKeyValue* pair = header.find(key);
    if (pair == nullptr) return fallback;
    const bool is_number = !pair->is_array && (std::holds_alternative<uint64_t>(pair->values[0]) ||
                                               std::holds_alternative<int64_t>(pair->values[0]));
    if (!is_number) fail<GgufError>(path, ": ", key, " must be a single integer");
    if (const auto* value = std::get_if<int64_t>(&pair->values[0])) {
        if (*value < 0) fail<GgufError>(path, ": ", key, " is ", *value, ", expected >= 0");
        return static_cast<uint64_t>(*value);
    }
    return std::get<uint64_t>(pair->values[0]);
}

std::string shard_suffix(uint64_t index, uint64_t n_shards) {
    char text[64];
    std::snprintf(text, sizeof(text), "-%05llu-of-%05llu.gguf",
                  static_cast<unsigned long long>(index + 1),
                  static_cast<unsigned long long>(n_shards));
    return text;
}

}  // namespace

GgufFile::GgufFile(const std::string& path, bool with_siblings) {
    open_shard(path);
    const uint64_t n_shards = split_setting(header(), "split.count", 1, path);
    if (n_shards > kMaxShards) {
        fail<GgufError>(path, ": split.count is ", n_shards, ", expected at most ", kMaxShards);
    }
    if (n_shards > 1 && with_siblings) open_siblings(path, n_shards);
    collect_tensors();
}

void GgufFile::open_shard(const std::string& path) {
    Shard shard;
    shard.file = std::make_shared<const MappedFile>(path);
    const uint64_t set_alignment = shards_.empty() ? kDefaultAlignment : header().alignment;
    shard.header = parse_gguf(shard.file->data(), shard.file->size(), path, set_alignment);
    shards_.push_back(std::move(shard));
}

void GgufFile::open_siblings(const std::string& path, uint64_t n_shards) {
    const uint64_t index = split_setting(header(), "split.no", 0, path);
    const std::string suffix = shard_suffix(index, n_shards);
    if (path.size() <= suffix.size() ||
        path.compare(path.size() - suffix.size(), suffix.size(), suffix) != 0) {
        fail<GgufError>(path, ": this is shard ", index + 1, " of ", n_shards,
                        ", so its name must end in '", suffix,
                        "' for the other shards to be found; rename it back");
    }
    const std::string prefix = path.substr(0, path.size() - suffix.size());
    shards_.clear();
    for (uint64_t i = 0; i < n_shards; ++i) {
        const std::string sibling = prefix + shard_suffix(i, n_shards);
        if (::access(sibling.c_str(), F_OK) != 0) {
            fail<GgufError>("cannot open ", sibling, ": shard ", i + 1, " of ", n_shards,
                            " is not there; put all shards of the model into one folder");
        }
        open_shard(sibling);
        const GgufHeader& shard = shards_.back().header;
        if (split_setting(shard, "split.no", 0, sibling) != i ||
            split_setting(shard, "split.count", 1, sibling) != n_shards) {
            fail<GgufError>(sibling,
                            ": its metadata says it is another shard than its name says; "
                            "expected number ",
                            i + 1, " of ", n_shards);
        }
    }
}

void GgufFile::collect_tensors() {
    std::unordered_set<std::string> seen;
    for (size_t i = 0; i < shards_.size(); ++i) {
        for (const GgufTensor& entry : shards_[i].header.tensors) {
            if (!seen.insert(entry.name).second) {
                fail<GgufError>(shards_[i].file->path(), ": tensor '", entry.name,
                                "' is in two shards");
            }
            tensors_.push_back({entry, i});
        }
    }
    const std::string& path = shards_.front().file->path();
    const uint64_t expected = split_setting(header(), "split.tensors.count", tensors_.size(), path);
    if (shards_.size() > 1 && expected != tensors_.size()) {
        fail<GgufError>(path, ": the shards hold ", tensors_.size(),
                        " tensors, split.tensors.count says ", expected);
    }
}

bool GgufFile::has_data() const {
    return std::all_of(shards_.begin(), shards_.end(),
                       [](const Shard& shard) { return shard.header.has_data(); });
}

std::vector<std::string> GgufFile::shard_paths() const {
    std::vector<std::string> paths;
    for (const Shard& shard : shards_) paths.push_back(shard.file->path());
    return paths;
}

std::string GgufFile::missing_data() const {
    for (const Shard& shard : shards_) {
        const GgufHeader& header = shard.header;
        if (header.has_data()) continue;
        if (header.data_present == 0) return shard.file->path() + ": holds the header only";
        return concat(shard.file->path(), ": the file is truncated: ", header.data_present, " of ",
                      header.data_needed, " bytes of its weights are there");
    }
    return "";
}

uint64_t GgufFile::file_offset(const ShardTensor& tensor) const {
    return shards_.at(tensor.shard).header.data_begin + tensor.entry.offset;
}

StoredTensor GgufFile::stored_tensor(const ShardTensor& tensor) const {
    tensor_data(tensor);  // throws
    const GgufTensor& entry = tensor.entry;
    const TensorRows rows{entry.n_per_row(), entry.rows_per_slice(), entry.n_slices()};
    return {entry.name,
            entry.type,
            rows,
            {{shards_.at(tensor.shard).file, file_offset(tensor), rows.n_rows(), nullptr}}};
}

const uint8_t* GgufFile::tensor_data(const ShardTensor& tensor) const {
    const Shard& shard = shards_.at(tensor.shard);
    const std::string& path = shard.file->path();
    if (shard.header.data_present == 0 && tensor.entry.n_bytes > 0) {
        fail<GgufError>(path, ": tensor '", tensor.entry.name,
                        "' has no data: the file holds the header only");
    }
    const uint64_t end = file_offset(tensor) + tensor.entry.n_bytes;
    if (end > shard.file->size()) {
        fail<GgufError>(path, ": the file is truncated: tensor '", tensor.entry.name,
                        "' ends at byte ", end, ", the file at ", shard.file->size(),
                        "; download or convert it again");
    }
    return shard.file->data() + file_offset(tensor);
}

int64_t GgufFile::find_tensor(const std::string& name) const {
    for (size_t i = 0; i < tensors_.size(); ++i) {
        if (tensors_[i].entry.name == name) return static_cast<int64_t>(i);
    }
    return -1;
}

}  // namespace apex
