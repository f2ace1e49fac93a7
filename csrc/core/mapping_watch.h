// Which files llama.cpp maps, and how.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace apex {

// While one lives, what its thread maps of files comes into memory page by page, as it is touched,
// even where the call asks for all pages at once (MAP_POPULATE, as llama.cpp does: one thread then
// enters page after page, which takes longer than copying them); and it is known which bytes of a
// file an address stands for. On Linux, in programs linked with this library: csrc/core/
// CMakeLists.txt has the linker send their calls of mmap here. Elsewhere nothing is ever found.
class MappingWatch {
  public:
    MappingWatch();
    ~MappingWatch();
    MappingWatch(const MappingWatch&) = delete;
    MappingWatch& operator=(const MappingWatch&) = delete;

    struct Bytes {
        int fd = -1;  // -1: not of a file mapped meanwhile; open as long as the watch lives
        uint64_t offset = 0;
    };
    Bytes find(const void* address, size_t n_bytes) const;

    static MappingWatch* of_this_thread();
    void add(const void* address, size_t n_bytes, int fd, uint64_t offset);

  private:
    struct Mapping {
        const uint8_t* address = nullptr;
        size_t n_bytes = 0;
        Bytes bytes;
    };

    std::vector<Mapping> mappings_;
    MappingWatch* before_;
};

}  // namespace apex
