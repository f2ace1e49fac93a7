#include "model/read_ahead.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "core/error.h"
#include "core/worker_group.h"

namespace apex {
namespace {

// bench/loading.py: a single reader gave a half to three quarters of what two gave, eight gave
// less.
constexpr int kThreads = 4;
constexpr size_t kBlock = 4u << 20;

// The system drops pages in runs much longer than this many to a block.
constexpr size_t kProbes = 8;

bool is_page_absent(const uint8_t* page, size_t page_bytes) {
#ifdef __APPLE__
    char state = 0;
#else
    unsigned char state = 0;
#endif
    // The argument is void* on Linux; nothing is written there.
    const int status = ::mincore(const_cast<uint8_t*>(page), page_bytes, &state);
    return status == 0 && (state & 1) == 0;
}

}  // namespace

bool ReadAhead::Block::is_absent() const {
    static const auto page_bytes = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    const size_t n_pages = (n_bytes + page_bytes - 1) / page_bytes;
    const size_t n_probes = std::min(n_pages, kProbes);
    for (size_t i = 0; i < n_probes; ++i) {
        const size_t page = n_probes == 1 ? 0 : i * (n_pages - 1) / (n_probes - 1);
        if (is_page_absent(file->data() + offset + page * page_bytes, page_bytes)) return true;
    }
    return false;
}

ReadAhead::ReadAhead(const std::vector<std::string>& shards) {
    for (const std::string& shard : shards) {
        files_.push_back(std::make_unique<const MappedFile>(shard));
        const MappedFile& file = *files_.back();
        for (uint64_t offset = 0; offset < file.size(); offset += kBlock) {
            blocks_.push_back({&file, offset, std::min<size_t>(kBlock, file.size() - offset)});
        }
    }
}

uint64_t ReadAhead::n_bytes() const {
    uint64_t n = 0;
    for (const Block& block : blocks_) n += block.n_bytes;
    return n;
}

uint64_t ReadAhead::n_absent_bytes() const {
    uint64_t n = 0;
    for (const Block& block : blocks_) n += block.is_absent() ? block.n_bytes : 0;
    return n;
}

void ReadAhead::run(const StopFlag* stop) const {
    const auto check_stop = [&] {
        if (stop != nullptr && stop->is_set()) fail<Cancelled>("reading ahead was stopped");
    };
    check_stop();
    WorkerGroup readers(kThreads, static_cast<int64_t>(blocks_.size()),
                        [&]() -> WorkerGroup::Worker {
                            auto room = std::make_shared<std::vector<uint8_t>>(kBlock);
                            return [&, room](int64_t unit) {
                                check_stop();
                                const Block& block = blocks_[static_cast<size_t>(unit)];
                                if (block.is_absent())
                                    block.file->read_at(block.offset, block.n_bytes, room->data());
                            };
                        });
    readers.join();
}

}  // namespace apex
