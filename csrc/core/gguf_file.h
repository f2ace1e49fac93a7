// A GGUF model on disk: one file or all shards of a split one, as a single tensor table.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/gguf_parser.h"
#include "core/mapped_file.h"
#include "core/row_source.h"

namespace apex {

struct ShardTensor {
    GgufTensor entry;
    size_t shard = 0;
};

class GgufFile {
  public:
    // Opens path; where it is a shard (-00001-of-0000N.gguf), opens its siblings too, unless told
    // to look at this one alone (a writer checks its shards before they have their names).
    explicit GgufFile(const std::string& path, bool with_siblings = true);

    // The first shard's, which carries the model's metadata.
    const GgufHeader& header() const { return shards_.front().header; }
    const std::vector<ShardTensor>& tensors() const { return tensors_; }
    size_t n_shards() const { return shards_.size(); }
    const MappedFile& shard_file(size_t shard) const { return *shards_.at(shard).file; }
    std::vector<std::string> shard_paths() const;

    // False where a file ends after its tensor table or in its data: it can be planned, not read.
    bool has_data() const;

    // Which file lacks what, as a sentence that begins with its path; empty where all is there.
    std::string missing_data() const;

    // Byte position of a tensor in its shard.
    uint64_t file_offset(const ShardTensor& tensor) const;

    // The mapped bytes of a tensor: valid as long as this object lives. Throws GgufError where they
    // are not in the file.
    const uint8_t* tensor_data(const ShardTensor& tensor) const;

    // The tensor for readers by position; it keeps its file open. Throws GgufError where the bytes
    // are not in the file.
    StoredTensor stored_tensor(const ShardTensor& tensor) const;

    // Index in tensors(), or -1.
    int64_t find_tensor(const std::string& name) const;

  private:
    struct Shard {
        std::shared_ptr<const MappedFile> file;
        GgufHeader header;
    };

    void open_shard(const std::string& path);
    void open_siblings(const std::string& path, uint64_t n_shards);
    void collect_tensors();

    std::vector<Shard> shards_;
    std::vector<ShardTensor> tensors_;
};

}  // namespace apex
