// Checksums of stored rows, to tell later whether they are what was written.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/row_source.h"

namespace apex {

// XXH64 of n bytes (xxHash fast digest algorithm, specification 0.1.1).
uint64_t xxh64(const uint8_t* bytes, size_t n, uint64_t seed);

// The sum, modulo 2^64, of every row's XXH64 with the row's number in its tensor as the seed: sums
// of parts of a tensor add up to that of the whole, in any order.
uint64_t rows_checksum(const uint8_t* rows, int64_t n_rows, size_t row_bytes, int64_t first_row);

// Of each tensor's stored rows. Throws Cancelled soon after cancelled becomes true.
std::vector<uint64_t> tensor_checksums(const std::vector<StoredTensor>& tensors, int n_threads,
                                       const std::atomic<bool>& cancelled);

}  // namespace apex
