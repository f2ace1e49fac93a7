// A file opened for reading, mapped for zero-copy views, and readable by position.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace apex {

// Copies [offset, offset + n_bytes) of an open file to out. Throws GgufError, with the file's name,
// where it is shorter than that or cannot be read.
void read_file_at(int fd, const std::string& name, uint64_t offset, size_t n_bytes, void* out);

// Two ways to the same bytes on purpose. The mapping serves headers and numpy views. Long jobs use
// read_at: a file that is truncated, or a disk that fails, while we work is then an exception with
// a name and an offset, where touching the mapping would kill the process with SIGBUS.
class MappedFile {
  public:
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    const std::string& path() const { return path_; }
    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

    // Copies [offset, offset + n_bytes) to out. Safe from several threads. Throws GgufError where
    // the file has become shorter or cannot be read.
    void read_at(uint64_t offset, size_t n_bytes, void* out) const;

    // Tells the kernel that a range will be read soon; a hint, never an error.
    void will_need(uint64_t offset, size_t n_bytes) const;

  private:
    std::string path_;
    int fd_ = -1;
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace apex
