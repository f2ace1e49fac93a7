// Rows that are computed when a worker asks for them, a block of them at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

namespace apex {

// Bytes of a block, and what keeps them.
struct BlockBytes {
    std::shared_ptr<const void> owner;
    const uint8_t* data = nullptr;
    size_t size = 0;
};

// Makes each block once for the workers that read it in order, and lets go of it when its last row
// was read. Memory is bounded by the number of workers: who finds a block in the making prepares
// the one behind it, then waits.
class RowBlocks {
  public:
    // Called by several workers at a time, for different blocks.
    using Make = std::function<BlockBytes(int64_t block)>;

    RowBlocks(int64_t n_rows, int64_t rows_per_block, size_t row_bytes, Make make);

    int64_t n_rows() const { return n_rows_; }
    size_t row_bytes() const { return row_bytes_; }

    // n_rows rows from first on go to bytes, which has room for them.
    void read(int64_t first, int64_t n_rows, uint8_t* bytes);

  private:
    struct Block;

    std::shared_ptr<Block> block(int64_t number);
    void prepare(int64_t number);
    void let_go(int64_t number, int64_t n_read);
    int64_t rows_of(int64_t number) const;

    int64_t n_rows_;
    int64_t rows_per_block_;
    size_t row_bytes_;
    Make make_;
    std::mutex mutex_;  // of blocks_ and of what is left of each
    std::map<int64_t, std::shared_ptr<Block>> blocks_;
};

}  // namespace apex
