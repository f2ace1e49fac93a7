#include "core/mapping_watch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace apex {
namespace {

thread_local MappingWatch* watch = nullptr;

}  // namespace

MappingWatch::MappingWatch() : before_(watch) {
    watch = this;
}

MappingWatch::~MappingWatch() {
    watch = before_;
    for (const Mapping& mapping : mappings_) ::close(mapping.bytes.fd);
}

MappingWatch* MappingWatch::of_this_thread() {
    return watch;
}

void MappingWatch::add(const void* address, size_t n_bytes, int fd, uint64_t offset) {
    // Its own descriptor: the caller's may be closed, and its number be another file's.
    const int own = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) return;
    try {
        mappings_.push_back({static_cast<const uint8_t*>(address), n_bytes, {own, offset}});
    } catch (...) {
        ::close(own);  // unknown, then; mmap throws nothing
    }
}

MappingWatch::Bytes MappingWatch::find(const void* address, size_t n_bytes) const {
    const auto begin = reinterpret_cast<uintptr_t>(address);
    // From the last one: where an address was mapped twice, that is what lies there.
    for (auto mapping = mappings_.rbegin(); mapping != mappings_.rend(); ++mapping) {
        const auto first = reinterpret_cast<uintptr_t>(mapping->address);
        if (begin < first || n_bytes > mapping->n_bytes) continue;
        if (begin - first > mapping->n_bytes - n_bytes) continue;
        return {mapping->bytes.fd, mapping->bytes.offset + (begin - first)};
    }
    return {};
}

}  // namespace apex

#ifdef __linux__

extern "C" {

// The linker's names for the two: --wrap=mmap.
void* __real_mmap(void* address, size_t n_bytes, int protection, int flags, int fd, off_t offset);
void* __wrap_mmap(void* address, size_t n_bytes, int protection, int flags, int fd, off_t offset);

void* __wrap_mmap(void* address, size_t n_bytes, int protection, int flags, int fd, off_t offset) {
    apex::MappingWatch* const watch = apex::MappingWatch::of_this_thread();
    const bool is_watched = watch != nullptr && fd >= 0 && protection == PROT_READ;
    if (is_watched) flags &= ~MAP_POPULATE;
    void* const found = __real_mmap(address, n_bytes, protection, flags, fd, offset);
    if (is_watched && found != MAP_FAILED) {
        watch->add(found, n_bytes, fd, static_cast<uint64_t>(offset));
    }
    return found;
}

}  // extern "C"

#endif
