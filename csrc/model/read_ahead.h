// Model files on their way into the system's page cache, before llama.cpp maps them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "model/stop_flag.h"

namespace apex {

// llama.cpp maps a file and lets the system bring its pages, fault by fault: one stream of reads,
// which no signal ends. Here blocks of megabytes are read side by side, which keeps storage busy,
// and what is in memory already is passed over.
class ReadAhead {
  public:
    // Shards of one model, in the order they are read in. Throws GgufError where one cannot be
    // opened.
    explicit ReadAhead(const std::vector<std::string>& shards);

    uint64_t n_bytes() const;  // of all shards

    // What is not in memory now, told from some pages of each block. Everything is there for who
    // may not write the file: the system does not tell others.
    uint64_t n_absent_bytes() const;

    // Reads it. Throws Cancelled within a block's time of the flag, GgufError where reading fails.
    void run(const StopFlag* stop = nullptr) const;

  private:
    struct Block {
        const MappedFile* file;
        uint64_t offset;
        size_t n_bytes;
        bool is_absent() const;
    };

    std::vector<std::unique_ptr<const MappedFile>> files_;
    std::vector<Block> blocks_;
};

}  // namespace apex
