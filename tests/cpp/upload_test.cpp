// Weights on their way to a GPU, up to the GPU: tests/test_upload.py builds and runs it.
//
//   upload_test pieces     every byte arrives, whatever the sizes and the number of lanes
//   upload_test failures   errors of reading, sending and pinning
//   upload_test mappings   what is known of files mapped meanwhile, and what is not filled
//
// Exit status 0 if all went as it must; a message and 1 otherwise.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/mapping_watch.h"
#include "core/parallel_upload.h"

namespace {

using namespace apex;

constexpr size_t kPiece = 1000;

void require(bool condition, const std::string& what) {
    if (!condition) throw std::runtime_error("failed: " + what);
}

template <class E>
std::string message_of(const std::function<void()>& work) {
    try {
        work();
    } catch (const E& error) {
        return error.what();
    }
    return "";
}

std::atomic<int> n_on_their_way{0};

// In the place of the GPU: copies as late as it may, so that a room written too early shows.
class LateCopies final : public DeviceUpload {
  public:
    explicit LateCopies(size_t piece_bytes) {
        for (Room& room : rooms_) room.memory.resize(piece_bytes);
    }
    uint8_t* room() override {
        arrive(rooms_[next_]);
        return rooms_[next_].memory.data();
    }
    void send(void* to, size_t n_bytes, size_t n_zeros) override {
        require(n_zeros == 0, "no zeros behind weights: ggml has put them there");
        Room& room = rooms_[next_];
        require(room.to == nullptr && n_bytes <= room.memory.size(), "a room is free and fits");
        room.to = to;
        room.n_bytes = n_bytes;
        ++n_on_their_way;
        next_ = 1 - next_;
    }
    void wait() override {
        for (Room& room : rooms_) arrive(room);
    }

  private:
    struct Room {
        std::vector<uint8_t> memory;
        void* to = nullptr;
        size_t n_bytes = 0;
    };
    static void arrive(Room& room) {
        if (room.to == nullptr) return;
        std::copy_n(room.memory.data(), room.n_bytes, static_cast<uint8_t*>(room.to));
        room.to = nullptr;
        --n_on_their_way;
    }

    std::array<Room, 2> rooms_;
    size_t next_ = 0;
};

std::unique_ptr<DeviceUpload> late_copies(size_t piece_bytes) {
    return std::make_unique<LateCopies>(piece_bytes);
}

std::vector<uint8_t> some_bytes(size_t n) {
    std::vector<uint8_t> bytes(n);
    for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<uint8_t>((i * 2654435761u) >> 13);
    return bytes;
}

ParallelUpload::Read read_from(const std::vector<uint8_t>& bytes) {
    return [&bytes](size_t offset, size_t n, uint8_t* room) {
        require(offset + n <= bytes.size(), "nothing is read beyond the end");
        std::copy_n(bytes.data() + offset, n, room);
    };
}

// --- pieces --------------------------------------------------------------------------------------

void check_copy(ParallelUpload& upload, size_t n) {
    constexpr size_t kMargin = 16;
    const std::vector<uint8_t> from = some_bytes(n);
    std::vector<uint8_t> to(n + 2 * kMargin, 0xEE);
    upload.copy(read_from(from), n, to.data() + kMargin);
    require(n_on_their_way == 0, "all has arrived");
    require(std::equal(from.begin(), from.end(), to.begin() + kMargin), "the bytes are the same");
    for (size_t i = 0; i < kMargin; ++i) {
        require(to[i] == 0xEE && to[n + kMargin + i] == 0xEE, "nothing beside them is touched");
    }
}

void pieces() {
    for (const int n_threads : {1, 2, 5}) {
        ParallelUpload upload(n_threads, kPiece, late_copies);
        require(upload.n_lanes() == n_threads, "a lane a thread");
        // One after the other through the same rooms.
        for (const size_t n :
             {kPiece * 40 + 1, size_t{1}, kPiece - 1, kPiece, kPiece + 1, kPiece * 7}) {
            check_copy(upload, n);
        }
    }
}

// --- failures ------------------------------------------------------------------------------------

void failing_reads() {
    ParallelUpload upload(3, kPiece, late_copies);
    std::vector<uint8_t> to(kPiece * 20);
    const std::vector<uint8_t> from = some_bytes(to.size());
    const ParallelUpload::Read read = read_from(from);
    const auto fails = [&](size_t offset, size_t n, uint8_t* room) {
        const size_t piece = offset / kPiece;
        if (piece == 4 || piece == 5) fail<GgufError>("piece ", piece);
        read(offset, n, room);
    };
    for (int i = 0; i < 20; ++i) {
        const std::string message =
            message_of<GgufError>([&] { upload.copy(fails, to.size(), to.data()); });
        require(message == "piece 4", "the first error is the one that is told");
        require(n_on_their_way == 0, "nothing is on its way after an error");
    }
    check_copy(upload, kPiece * 9 + 3);  // and it works again
}

// A GPU that fails as soon as it is sent anything, or not before it is waited for.
class Broken final : public DeviceUpload {
  public:
    explicit Broken(bool late) : late_(late), room_(kPiece) {}
    uint8_t* room() override { return room_.data(); }
    void send(void*, size_t, size_t) override {
        if (!late_) fail<DeviceError>("send");
    }
    void wait() override {
        if (late_) fail<DeviceError>("wait");
    }

  private:
    bool late_;
    std::vector<uint8_t> room_;
};

void failing_gpu() {
    std::vector<uint8_t> to(kPiece * 8);
    const std::vector<uint8_t> from = some_bytes(to.size());
    for (const bool late : {false, true}) {
        ParallelUpload upload(2, kPiece, [&](size_t) { return std::make_unique<Broken>(late); });
        const std::string message =
            message_of<DeviceError>([&] { upload.copy(read_from(from), to.size(), to.data()); });
        require(message == (late ? "wait" : "send"), "the GPU's error is told");
    }
}

void too_little_to_pin() {
    for (const int n_fit : {0, 1, 3}) {
        int n_made = 0;
        ParallelUpload upload(8, kPiece, [&](size_t piece_bytes) {
            if (n_made == n_fit) fail<DeviceError>("cannot pin");
            ++n_made;
            return late_copies(piece_bytes);
        });
        require(upload.n_lanes() == n_fit, "as many lanes as there is memory for");
        if (n_fit > 0) check_copy(upload, kPiece * 11 + 7);
    }
}

// --- mappings ------------------------------------------------------------------------------------

class TemporaryFile {
  public:
    explicit TemporaryFile(const std::vector<uint8_t>& bytes) : file_(std::tmpfile()) {
        require(file_ != nullptr, "tmpfile");
        require(std::fwrite(bytes.data(), 1, bytes.size(), file_) == bytes.size(), "fwrite");
        require(std::fflush(file_) == 0, "fflush");
    }
    ~TemporaryFile() { close(); }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    int descriptor() const { return fileno(file_); }
    void close() {
        if (file_ != nullptr) std::fclose(file_);
        file_ = nullptr;
    }

  private:
    std::FILE* file_;
};

// As llama.cpp maps a model.
const uint8_t* map_whole(int fd, size_t n_bytes) {
    void* address = ::mmap(nullptr, n_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    require(address != MAP_FAILED, "mmap");
    return static_cast<const uint8_t*>(address);
}

// Of the page at an address, in this process' tables.
bool is_present(const uint8_t* address) {
    const auto page_bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    const auto page = reinterpret_cast<uintptr_t>(address) / page_bytes;
    uint64_t entry = 0;
    const int tables = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    const ssize_t n =
        ::pread(tables, &entry, sizeof(entry), static_cast<off_t>(page * sizeof(entry)));
    ::close(tables);
    require(n == sizeof(entry), "/proc/self/pagemap can be read");
    return (entry >> 63) != 0;
}

void watched(const std::vector<uint8_t>& bytes) {
    const size_t n = bytes.size();
    TemporaryFile file(bytes);
    const MappingWatch watch;
    const uint8_t* data = map_whole(file.descriptor(), n);
    require(!is_present(data) && !is_present(data + n / 2), "pages come when they are touched");
    const MappingWatch::Bytes found = watch.find(data + 12345, n - 12345);
    require(found.fd >= 0 && found.offset == 12345, "an address is a place in the file");
    require(watch.find(data + n - 1, 1).offset == n - 1, "up to the last byte");
    require(watch.find(data + n - 1, 2).fd < 0, "and no further");
    require(watch.find(bytes.data(), 1).fd < 0, "other memory is no file");

    std::thread([&] {
        const uint8_t* others = map_whole(file.descriptor(), n);
        require(is_present(others), "other threads map as they did");
        require(watch.find(others, 1).fd < 0, "and unseen");
        ::munmap(const_cast<uint8_t*>(others), n);
    }).join();

    file.close();
    std::vector<uint8_t> read(n);
    read_file_at(found.fd, "the file", 0, n, read.data());
    require(read == bytes, "the file can be read though its owner closed it");
    ::munmap(const_cast<uint8_t*>(data), n);
}

void cut_meanwhile(const std::vector<uint8_t>& bytes) {
    const TemporaryFile file(bytes);
    const MappingWatch watch;
    const uint8_t* data = map_whole(file.descriptor(), bytes.size());
    require(::ftruncate(file.descriptor(), 50'000) == 0, "ftruncate");
    const MappingWatch::Bytes found = watch.find(data + 60'000, 1000);
    std::vector<uint8_t> read(1000);
    const std::string message = message_of<GgufError>(
        [&] { read_file_at(found.fd, "model.gguf", found.offset, read.size(), read.data()); });
    require(message.find("model.gguf: expected 1000 more bytes at 60000") == 0, message);
    ::munmap(const_cast<uint8_t*>(data), bytes.size());
}

void mappings() {
    const std::vector<uint8_t> bytes = some_bytes(1u << 20);
    watched(bytes);
    cut_meanwhile(bytes);
    const TemporaryFile file(bytes);
    const uint8_t* data = map_whole(file.descriptor(), bytes.size());
    require(is_present(data), "without a watch all is as it was");
    ::munmap(const_cast<uint8_t*>(data), bytes.size());
}

int run(const std::string& command) {
    if (command == "pieces") {
        pieces();
    } else if (command == "failures") {
        failing_reads();
        failing_gpu();
        too_little_to_pin();
    } else if (command == "mappings") {
        mappings();
    } else {
        throw std::runtime_error("usage: upload_test pieces|failures|mappings");
    }
    std::printf("%s: as they must\n", command.c_str());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc == 2 ? argv[1] : "");
    } catch (const std::exception& error) {
        std::fprintf(stderr, "upload_test: %s\n", error.what());
        return 1;
    }
}
