#include "core/row_blocks.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace apex {

struct RowBlocks::Block {
    std::mutex making;  // held while the bytes are made
    BlockBytes bytes;
    int64_t rows_left = 0;
};

RowBlocks::RowBlocks(int64_t n_rows, int64_t rows_per_block, size_t row_bytes, Make make)
    : n_rows_(n_rows),
      rows_per_block_(rows_per_block),
      row_bytes_(row_bytes),
      make_(std::move(make)) {
    if (n_rows < 1 || rows_per_block < 1 || row_bytes < 1) {
        fail<InvalidArgument>("blocks of ", rows_per_block, " rows of ", row_bytes, " bytes for ",
                              n_rows, " rows, expected at least one each");
    }
}

int64_t RowBlocks::rows_of(int64_t number) const {
    return std::min(rows_per_block_, n_rows_ - number * rows_per_block_);
}

std::shared_ptr<RowBlocks::Block> RowBlocks::block(int64_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<Block>& found = blocks_[number];
    if (!found) {
        found = std::make_shared<Block>();
        found->rows_left = rows_of(number);
    }
    return found;
}

// Makes the block unless somebody else does or did.
void RowBlocks::prepare(int64_t number) {
    if (number * rows_per_block_ >= n_rows_) return;
    const std::shared_ptr<Block> wanted = block(number);
    const std::unique_lock<std::mutex> lock(wanted->making, std::try_to_lock);
    if (lock.owns_lock() && wanted->bytes.data == nullptr) wanted->bytes = make_(number);
}

void RowBlocks::let_go(int64_t number, int64_t n_read) {
    std::shared_ptr<Block> gone;  // freed after the lock
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = blocks_.find(number);
    if (found == blocks_.end()) return;
    found->second->rows_left -= n_read;
    if (found->second->rows_left > 0) return;
    gone = std::move(found->second);
    blocks_.erase(found);
}

void RowBlocks::read(int64_t first, int64_t n_rows, uint8_t* bytes) {
    while (n_rows > 0) {
        const int64_t number = first / rows_per_block_;
        const int64_t begin = first - number * rows_per_block_;
        const int64_t n = std::min(n_rows, rows_of(number) - begin);
        const size_t n_bytes = static_cast<size_t>(n) * row_bytes_;
        const std::shared_ptr<Block> wanted = block(number);
        {
            std::unique_lock<std::mutex> lock(wanted->making, std::try_to_lock);
            if (!lock.owns_lock()) {
                prepare(number + 1);
                lock.lock();
            }
            if (wanted->bytes.data == nullptr) wanted->bytes = make_(number);
            const size_t expected = static_cast<size_t>(rows_of(number)) * row_bytes_;
            if (wanted->bytes.size != expected) {
                fail<InvalidArgument>("block ", number, " has ", wanted->bytes.size,
                                      " bytes, expected ", expected);
            }
        }
        std::memcpy(bytes, wanted->bytes.data + static_cast<size_t>(begin) * row_bytes_, n_bytes);
        let_go(number, n);
        bytes += n_bytes;
        first += n;
        n_rows -= n;
    }
}

}  // namespace apex
