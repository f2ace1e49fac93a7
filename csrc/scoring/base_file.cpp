#include "scoring/base_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <tuple>

#include "core/error.h"

namespace apex {
namespace {

constexpr char kMagic[] = "_logits_";
constexpr size_t kMagicSize = sizeof(kMagic) - 1;
constexpr size_t kHeaderSize = kMagicSize + 3 * sizeof(int32_t);
constexpr size_t kRecordHead = 2 * sizeof(float) / sizeof(uint16_t);
constexpr int32_t kMaxContext = 1 << 24;     // far above any model's
constexpr int32_t kMaxVocabulary = 1 << 24;  // likewise

// 16-bit words of one position.
size_t record_words(int64_t n_vocab) {
    return static_cast<size_t>((n_vocab + 1) / 2 * 2) + kRecordHead;
}

int64_t record_size(int64_t n_vocab) {
    return static_cast<int64_t>(record_words(n_vocab) * sizeof(uint16_t));
}

int64_t n_scored(int64_t n_ctx) {
    return n_ctx - 1 - n_ctx / 2;
}

// Upstream's rounding: to nearest, ties to even (nearest_int in perplexity.cpp).
uint16_t nearest_code(float value) {
    const float shifted = value + 12582912.f;
    int32_t bits;
    std::memcpy(&bits, &shifted, sizeof(bits));
    return static_cast<uint16_t>((bits & 0x007fffff) - 0x00400000);
}

void encode_row(const float* logits, int64_t n_vocab, uint16_t* record) {
    constexpr float kRange = 16;
    float max = logits[0];
    float min = logits[0];
    for (int64_t i = 1; i < n_vocab; ++i) {
        max = std::max(max, logits[i]);
        min = std::min(min, logits[i]);
    }
    min = std::max(min, max - kRange);
    const auto log_sum = static_cast<float>(log_sum_exp(logits, n_vocab) - double(max));
    const float scale = (max - min) / 65535.f;
    const float head[2] = {scale, min - max - log_sum};
    std::memcpy(record, head, sizeof(head));
    uint16_t* codes = record + kRecordHead;
    const float inverse = scale == 0 ? 0 : 1 / scale;
    for (int64_t i = 0; i < n_vocab; ++i) {
        codes[i] = logits[i] > min ? nearest_code(inverse * (logits[i] - min)) : 0;
    }
}

}  // namespace

// --- reading ------------------------------------------------------------------------------------

std::shared_ptr<const BaseFile> BaseFile::open(const std::string& path) {
    return std::shared_ptr<const BaseFile>(new BaseFile(path));
}

BaseFile::BaseFile(const std::string& path)
    : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail<DataError>("cannot read ", path, ": ", std::strerror(errno));
    try {
        struct stat status{};
        if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
            fail<DataError>(path, ": expected a file");
        }
        char head[kHeaderSize];
        if (status.st_size < int64_t{kHeaderSize}) {
            fail<DataError>(path, ": too short for a file of log-probabilities");
        }
        read(head, kHeaderSize, 0);
        if (std::memcmp(head, kMagic, kMagicSize) != 0) {
            fail<DataError>(path, ": expected a file of log-probabilities, which begins with '",
                            kMagic, "'");
        }
        int32_t counts[3];
        std::memcpy(counts, head + kMagicSize, sizeof(counts));
        std::tie(n_ctx_, n_vocab_, n_chunks_) = std::tie(counts[0], counts[1], counts[2]);
        if (n_ctx_ < 4 || n_ctx_ > kMaxContext || n_vocab_ < 1 || n_vocab_ > kMaxVocabulary ||
            n_chunks_ < 1) {
            fail<DataError>(path, ": a context of ", n_ctx_, " tokens, a vocabulary of ", n_vocab_,
                            " and ", n_chunks_, " chunks cannot be");
        }
        const int64_t n_tokens = int64_t{n_ctx_} * n_chunks_;
        data_offset_ = int64_t{kHeaderSize} + n_tokens * int64_t{sizeof(llama_token)};
        const double expected = double(data_offset_) + double(n_chunks_) *
                                                           double(n_scored(n_ctx_)) *
                                                           double(record_size(n_vocab_));
        if (double(status.st_size) != expected) {
            fail<DataError>(path, ": expected ", int64_t(expected), " bytes for ", n_chunks_,
                            " chunks, found ", status.st_size,
                            "; the program that wrote it was stopped, or the disk was full");
        }
        tokens_.resize(static_cast<size_t>(n_tokens));
        read(tokens_.data(), tokens_.size() * sizeof(llama_token), kHeaderSize);
    } catch (...) {
        close(descriptor_);
        throw;
    }
}

BaseFile::~BaseFile() {
    close(descriptor_);
}

void BaseFile::read(void* to, size_t size, int64_t offset) const {
    auto* bytes = static_cast<char*>(to);
    while (size > 0) {
        const ssize_t n = pread(descriptor_, bytes, size, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail<DataError>("cannot read ", path_, ": ", std::strerror(errno));
        if (n == 0) fail<DataError>(path_, ": became shorter while it was read");
        bytes += n;
        size -= static_cast<size_t>(n);
        offset += n;
    }
}

void BaseFile::read_row(int64_t index, float* log_probabilities) const {
    std::vector<uint16_t> record(record_words(n_vocab_));
    read(record.data(), record.size() * sizeof(uint16_t),
         data_offset_ + index * record_size(n_vocab_));
    float head[2];
    std::memcpy(head, record.data(), sizeof(head));
    const uint16_t* codes = record.data() + kRecordHead;
    for (int32_t i = 0; i < n_vocab_; ++i) log_probabilities[i] = head[0] * codes[i] + head[1];
}

BaseFileSource::BaseFileSource(std::shared_ptr<const BaseFile> file,
                               std::shared_ptr<ThreadPool> pool, const ChunkShape& shape,
                               int32_t first_chunk)
    : file_(std::move(file)), pool_(std::move(pool)), shape_(shape), first_chunk_(first_chunk) {
    if (shape.n_ctx != file_->n_ctx()) {
        fail<InvalidArgument>(file_->path(), " was made with a context of ", file_->n_ctx(),
                              " tokens, not ", shape.n_ctx);
    }
}

void BaseFileSource::compute(const Step& step) {
    const auto n_outputs = static_cast<size_t>(step.n_outputs());
    rows_.resize(n_outputs * static_cast<size_t>(n_vocab()));
    const int64_t first_index = int64_t{first_chunk_} * shape_.n_scored();
    pool_->run([&](int thread, int n_threads) {
        for (int32_t i = thread; i < step.n_outputs(); i += n_threads) {
            const int64_t index = first_index + scored_place(shape_, step, i).index;
            file_->read_row(index, rows_.data() + int64_t{i} * n_vocab());
        }
    });
}

// --- writing ------------------------------------------------------------------------------------

BaseFileWriter::BaseFileWriter(int descriptor, const ChunkShape& shape, int32_t n_vocab,
                               const std::vector<llama_token>& tokens)
    : descriptor_(descriptor),
      n_vocab_(n_vocab),
      data_offset_(static_cast<int64_t>(kHeaderSize + tokens.size() * sizeof(llama_token))) {
    const int32_t counts[3] = {shape.n_ctx, n_vocab,
                               static_cast<int32_t>(tokens.size()) / shape.n_ctx};
    write(kMagic, kMagicSize, 0);
    write(counts, sizeof(counts), kMagicSize);
    write(tokens.data(), tokens.size() * sizeof(llama_token), kHeaderSize);
}

void BaseFileWriter::observe(int64_t index, const float* row, int32_t) {
    std::vector<uint16_t> record(record_words(n_vocab_));
    encode_row(row, n_vocab_, record.data());
    write(record.data(), record.size() * sizeof(uint16_t),
          data_offset_ + index * record_size(n_vocab_));
}

void BaseFileWriter::write(const void* from, size_t size, int64_t offset) const {
    const auto* bytes = static_cast<const char*>(from);
    while (size > 0) {
        const ssize_t n = pwrite(descriptor_, bytes, size, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail<OutputError>("cannot write log-probabilities: ", std::strerror(errno));
        bytes += n;
        size -= static_cast<size_t>(n);
        offset += n;
    }
}

}  // namespace apex
