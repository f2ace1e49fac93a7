#include "core/row_checksum.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "core/error.h"
#include "core/worker_group.h"

namespace apex {
namespace {

// The algorithm's constants.
constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F,
                   kPrime3 = 0x165667B19E3779F9, kPrime4 = 0x85EBCA77C2B2AE63,
                   kPrime5 = 0x27D4EB2F165667C5;

uint64_t rotated(uint64_t value, int n) {
    return value << n | value >> (64 - n);
}

// Little-endian, as everything in GGUF that this program reads.
template <typename Word>
uint64_t word_at(const uint8_t* bytes) {
    Word word;
    std::memcpy(&word, bytes, sizeof word);
    return word;
}

uint64_t mixed(uint64_t lane, uint64_t word) {
    return rotated(lane + word * kPrime2, 31) * kPrime1;
}

// Whole stripes of 32 bytes, in four lanes.
uint64_t stripes(const uint8_t* bytes, const uint8_t* end, uint64_t seed) {
    uint64_t a = seed + kPrime1 + kPrime2, b = seed + kPrime2, c = seed, d = seed - kPrime1;
    for (; bytes < end; bytes += 32) {
        a = mixed(a, word_at<uint64_t>(bytes));
        b = mixed(b, word_at<uint64_t>(bytes + 8));
        c = mixed(c, word_at<uint64_t>(bytes + 16));
        d = mixed(d, word_at<uint64_t>(bytes + 24));
    }
    uint64_t hash = rotated(a, 1) + rotated(b, 7) + rotated(c, 12) + rotated(d, 18);
    for (const uint64_t lane : {a, b, c, d}) hash = (hash ^ mixed(0, lane)) * kPrime1 + kPrime4;
    return hash;
}

}  // namespace

uint64_t xxh64(const uint8_t* bytes, size_t n, uint64_t seed) {
    const uint8_t *end = bytes + n, *striped = bytes + n / 32 * 32;
    uint64_t hash = n < 32 ? seed + kPrime5 : stripes(bytes, striped, seed);
    hash += n;
    bytes = striped;
    for (; end - bytes >= 8; bytes += 8) {
        hash = rotated(hash ^ mixed(0, word_at<uint64_t>(bytes)), 27) * kPrime1 + kPrime4;
    }
    if (end - bytes >= 4) {
        hash = rotated(hash ^ word_at<uint32_t>(bytes) * kPrime1, 23) * kPrime2 + kPrime3;
        bytes += 4;
    }
    for (; bytes < end; ++bytes) hash = rotated(hash ^ *bytes * kPrime5, 11) * kPrime1;
    hash = (hash ^ hash >> 33) * kPrime2;
    hash = (hash ^ hash >> 29) * kPrime3;
    return hash ^ hash >> 32;
}

uint64_t rows_checksum(const uint8_t* rows, int64_t n_rows, size_t row_bytes, int64_t first_row) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < n_rows; ++i) {
        sum += xxh64(rows + static_cast<size_t>(i) * row_bytes, row_bytes,
                     static_cast<uint64_t>(first_row + i));
    }
    return sum;
}

std::vector<uint64_t> tensor_checksums(const std::vector<StoredTensor>& tensors, int n_threads,
                                       const std::atomic<bool>& cancelled) {
    std::vector<TensorRows> rows;
    rows.reserve(tensors.size());
    for (const StoredTensor& tensor : tensors) rows.push_back(tensor.rows);
    const RowUnits units(std::move(rows));
    std::vector<std::atomic<uint64_t>> sums(tensors.size());
    WorkerGroup workers(std::max(1, n_threads), units.size(), [&] {
        auto stored = std::make_shared<std::vector<uint8_t>>();
        return [&, stored](int64_t unit_number) {
            if (cancelled.load(std::memory_order_relaxed)) throw Cancelled("stopped by the caller");
            const RowUnit unit = units[unit_number];
            const StoredTensor& tensor = tensors[unit.tensor];
            read_unit(tensor, unit, *stored);
            sums[unit.tensor] += rows_checksum(stored->data(), unit.n_rows,
                                               stored->size() / static_cast<size_t>(unit.n_rows),
                                               tensor.rows.first_row(unit));
        };
    });
    workers.join();
    return {sums.begin(), sums.end()};
}

}  // namespace apex
