#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace apex {

void read_file_at(int fd, const std::string& name, uint64_t offset, size_t n_bytes, void* out) {
    auto* target = static_cast<uint8_t*>(out);
    while (n_bytes > 0) {
        const ssize_t n = ::pread(fd, target, n_bytes, static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail<GgufError>(name, ": reading at ", offset, ": ", std::strerror(errno));
        if (n == 0) {
            fail<GgufError>(name, ": expected ", n_bytes, " more bytes at ", offset,
                            ", found the end of the file: it was truncated while being read");
        }
        target += n;
        offset += static_cast<uint64_t>(n);
        n_bytes -= static_cast<size_t>(n);
    }
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
    // O_NONBLOCK: opening a FIFO must fail below, not wait for a writer.
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd_ < 0) fail<GgufError>("cannot open ", path, ": ", std::strerror(errno));
    struct stat info{};
    const bool regular = ::fstat(fd_, &info) == 0 && S_ISREG(info.st_mode);
    if (!regular || info.st_size == 0) {
        ::close(fd_);
        fail<GgufError>(path, ": expected a GGUF file, found ",
                        regular ? "an empty file" : "something that is not a regular file");
    }
    size_ = static_cast<size_t>(info.st_size);
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd_, 0);
    if (address == MAP_FAILED) {
        const int reason = errno;
        ::close(fd_);
        fail<GgufError>("cannot map ", path, " (", size_, " bytes): ", std::strerror(reason));
    }
    data_ = static_cast<uint8_t*>(address);
}

MappedFile::~MappedFile() {
    if (data_ != nullptr) ::munmap(data_, size_);
    if (fd_ >= 0) ::close(fd_);
}

void MappedFile::read_at(uint64_t offset, size_t n_bytes, void* out) const {
    read_file_at(fd_, path_, offset, n_bytes, out);
}

void MappedFile::will_need(uint64_t offset, size_t n_bytes) const {
#ifdef POSIX_FADV_WILLNEED
    (void)::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(n_bytes),
                          POSIX_FADV_WILLNEED);
#else
    (void)offset;
    (void)n_bytes;
#endif
}

}  // namespace apex
