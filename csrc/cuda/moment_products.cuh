// X^T X of the rows that meet one matrix, a tile of its lower triangle a block of threads: the sums
// of moments/products.h, added in its order.
//
// Products of at most kProductRows rows are added in float, one row after the other, these sums in
// double. A thread holds 8 x 8 elements of a tile of 128 x 128, those at every 16th row and column,
// so that a warp's reads of shared memory never meet in a bank.
#pragma once

#include "cuda/squares.cuh"
#include "cuda/thread_block.cuh"
#include "moments/products.h"

namespace apex::cuda {

inline constexpr int kMomentTile = 128;
inline constexpr int kMomentSide = 8;       // elements of a thread, each way
inline constexpr int kMomentThreads = 256;  // 16 x 16
inline constexpr int kMomentStep = 16;      // rows in shared memory at a time
static_assert(kProductRows % kMomentStep == 0);

// Tiles (i, j), j <= i, row after row.
struct MomentTile {
    int64_t row, column;  // of the matrix, where it begins

    APEX_HD explicit MomentTile(int64_t number) {
        int64_t i = 0;
        while (packed_size(i + 1) <= number) ++i;
        row = i * kMomentTile;
        column = (number - packed_size(i)) * kMomentTile;
    }
    APEX_HD static int64_t count(int64_t n) {
        return packed_size((n + kMomentTile - 1) / kMomentTile);
    }
};

struct MomentMemory {
    float left[kMomentStep][kMomentTile];
    float right[kMomentStep][kMomentTile];
};

// Where sums go: those of all rows, and of the part; null where these rows are not in it.
struct MomentTotals {
    double* total;
    double* part;
};

struct MomentSums {
    float sums[kMomentSide][kMomentSide];
};

APEX_BLOCK int moment_row(int thread, int a) {
    return thread / 16 + 16 * a;
}

APEX_BLOCK int moment_column(int thread, int b) {
    return thread % 16 + 16 * b;
}

// Rows begin to begin + n of the matrix, at most kMomentStep, beside each other; zeros beyond. 16
// threads a row.
template <typename Row>
APEX_BLOCK void load_moment_rows(const Block& block, const Row& row, int begin, int n,
                                 const MomentTile& tile, int64_t width, MomentMemory& memory) {
    static_assert(kMomentThreads == 16 * kMomentStep);
    block.run([&](int thread) {
        const int step = thread / 16;
        const float* values = step < n ? row(begin + step) : nullptr;
        APEX_UNROLL
        for (int c = 0; c < kMomentSide; ++c) {
            const int at = moment_column(thread, c);
            const int64_t i = tile.row + at, j = tile.column + at;
            memory.left[step][at] = values != nullptr && i < width ? values[i] : 0.0f;
            memory.right[step][at] = values != nullptr && j < width ? values[j] : 0.0f;
        }
    });
}

APEX_BLOCK void add_moment_rows(int thread, int n, const MomentMemory& memory, MomentSums& sums) {
    for (int step = 0; step < n; ++step) {
        float left[kMomentSide], right[kMomentSide];
        APEX_UNROLL
        for (int a = 0; a < kMomentSide; ++a) left[a] = memory.left[step][moment_row(thread, a)];
        APEX_UNROLL
        for (int b = 0; b < kMomentSide; ++b) {
            right[b] = memory.right[step][moment_column(thread, b)];
        }
        APEX_UNROLL
        for (int a = 0; a < kMomentSide; ++a) {
            APEX_UNROLL
            for (int b = 0; b < kMomentSide; ++b) sums.sums[a][b] += left[a] * right[b];
        }
    }
}

// A thread's elements of one row, those before the diagonal. Some are read before the first of them
// is written: a read behind a write would wait for the one before, a way to the memory each.
APEX_BLOCK void add_moment_row(int thread, int64_t i, int64_t first, const float* sums,
                               double* totals) {
    constexpr int kAtOnce = 4;
    const int64_t left = i - first - thread % 16;  // from a thread's first column to the diagonal
    double* row = totals + packed_size(i) + first + thread % 16;
    APEX_UNROLL
    for (int begin = 0; begin < kMomentSide; begin += kAtOnce) {
        double values[kAtOnce];
        APEX_UNROLL
        for (int b = 0; b < kAtOnce; ++b) {
            const int at = 16 * (begin + b);
            values[b] = at < left ? row[at] : 0.0;
        }
        APEX_UNROLL
        for (int b = 0; b < kAtOnce; ++b) {
            const int at = 16 * (begin + b);
            if (at < left) row[at] = values[b] + static_cast<double>(sums[begin + b]);
        }
    }
}

// The diagonal is left as it is: exact squares are added to it (add_moment_squares).
APEX_BLOCK void add_moment_tile(int thread, const MomentTile& tile, int64_t width,
                                const MomentSums& sums, const MomentTotals& totals) {
    APEX_UNROLL
    for (int a = 0; a < kMomentSide; ++a) {
        const int64_t i = opaque(tile.row + moment_row(thread, a));
        if (i >= width) continue;
        add_moment_row(thread, i, tile.column, sums.sums[a], totals.total);
        if (totals.part != nullptr) {
            add_moment_row(thread, i, tile.column, sums.sums[a], totals.part);
        }
    }
}

// row(i): the i-th of n_rows rows that meet the matrix.
template <typename Row>
APEX_BLOCK void add_moment_products(const Block& block, const Row& row, int n_rows,
                                    const MomentTile& tile, int64_t width,
                                    const MomentTotals& totals, MomentMemory& memory) {
    Block::PerThread<MomentSums> sums(block);
    for (int first = 0; first < n_rows; first += static_cast<int>(kProductRows)) {
        const int left = n_rows - first;
        const int count = left < static_cast<int>(kProductRows) ? left : int{kProductRows};
        block.run([&](int thread) { sums[thread] = MomentSums{}; });
        for (int begin = 0; begin < count; begin += kMomentStep) {
            const int n = count - begin < kMomentStep ? count - begin : kMomentStep;
            load_moment_rows(block, row, first + begin, n, tile, width, memory);
            block.run([&](int thread) { add_moment_rows(thread, n, memory, sums[thread]); });
        }
        block.run([&](int thread) { add_moment_tile(thread, tile, width, sums[thread], totals); });
    }
}

// Of one column: the squares of the importance matrix, as it adds them.
APEX_BLOCK void add_moment_squares(int64_t column, double squares, const MomentTotals& totals) {
    const int64_t at = packed_size(column) + column;
    totals.total[at] += squares;
    if (totals.part != nullptr) totals.part[at] += squares;
}

}  // namespace apex::cuda
