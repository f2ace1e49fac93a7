#include "moments/products.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/simd_clones.h"

namespace apex {
namespace {

constexpr int64_t kColumns = 16;  // of a tile in registers
constexpr int64_t kRows = 4;

using Lanes = float __attribute__((vector_size(32)));
constexpr int64_t kLanes = 8;

Lanes load(const float* values) {
    Lanes lanes;
    std::memcpy(&lanes, values, sizeof(lanes));
    return lanes;
}

// Rows of the matrix i to i + 4, columns j to j + 16, from n_rows rows of `stride` floats. The sums
// have names because an array of them would not stay in registers.
APEX_SIMD_CLONES
void multiply_tile(const float* rows, size_t n_rows, int64_t stride, int64_t i, int64_t j,
                   float* tile) {
    Lanes a0 = {}, a1 = {}, b0 = {}, b1 = {}, c0 = {}, c1 = {}, d0 = {}, d1 = {};
    const float *left = rows + i, *right = rows + j;
    for (size_t row = 0; row < n_rows; ++row, left += stride, right += stride) {
        const Lanes first = load(right), second = load(right + kLanes);
        a0 += left[0] * first;
        a1 += left[0] * second;
        b0 += left[1] * first;
        b1 += left[1] * second;
        c0 += left[2] * first;
        c1 += left[2] * second;
        d0 += left[3] * first;
        d1 += left[3] * second;
    }
    const Lanes sums[] = {a0, a1, b0, b1, c0, c1, d0, d1};
    std::memcpy(tile, sums, sizeof(sums));
}

void add_row(const float* tile, int64_t n, double* sums) {
    for (int64_t j = 0; j < n; ++j) sums[j] += tile[j];
}

// Rows one after the other, with zeros up to whole tiles.
void copy_padded(const float* const* rows, size_t n_rows, int64_t n, int64_t stride,
                 std::vector<float>& copied) {
    copied.assign(n_rows * static_cast<size_t>(stride), 0.0f);
    for (size_t row = 0; row < n_rows; ++row) {
        std::memcpy(copied.data() + static_cast<int64_t>(row) * stride, rows[row],
                    static_cast<size_t>(n) * sizeof(float));
    }
}

}  // namespace

void add_products(const float* const* rows, size_t n_rows, int64_t n, int64_t begin, int64_t end,
                  double* sums) {
    static_assert(kColumns == 2 * kLanes && kProductTile % kColumns == 0);
    const int64_t stride = (n + kColumns - 1) / kColumns * kColumns;
    thread_local std::vector<float> copied;
    float tile[kRows * kColumns];
    for (size_t first = 0; first < n_rows; first += kProductRows) {
        const size_t count = std::min(kProductRows, n_rows - first);
        copy_padded(rows + first, count, n, stride, copied);
        for (int64_t i = begin; i < end; i += kRows) {
            for (int64_t j = 0; j <= std::min(i + kRows, end) - 1; j += kColumns) {
                multiply_tile(copied.data(), count, stride, i, j, tile);
                for (int64_t k = 0; k < std::min(kRows, end - i); ++k) {
                    const int64_t columns = std::min(kColumns, i + k + 1 - j);
                    if (columns <= 0) continue;
                    add_row(tile + k * kColumns, columns, sums + packed_size(i + k) + j);
                }
            }
        }
    }
}

}  // namespace apex
