// X^T X of the rows that meet one matrix, a tile of its lower triangle a block of threads: the sums
// of moments/products.h, added in its order.
//
// Products of at most kProductRows rows are added in float, one row after the other, these sums in
// double. A thread holds 8 x 8 elements of a tile of 128 x 128: twice four rows beside each other,
// which it reads at once, and every 16th column, so that a warp's reads of shared memory never meet
// in a bank. Rows come into shared memory while those before are multiplied.
#pragma once

#include "cuda/copy_ahead.cuh"
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

struct alignas(16) MomentMemory {
    float left[2][kMomentStep][kMomentTile];  // of the rows at hand and of the next
    float right[2][kMomentStep][kMomentTile];
    const float* rows[kProductRows];
};

struct MomentSums {
    float sums[kMomentSide][kMomentSide];
};

inline constexpr int kBeside = kCopied;  // rows of a thread that lie beside each other

APEX_BLOCK int moment_row(int thread, int a) {
    return kBeside * (thread / 16) + 16 * kBeside * (a / kBeside) + a % kBeside;
}

APEX_BLOCK int moment_column(int thread, int b) {
    return thread % 16 + 16 * b;
}

// What a block works on: rows as wide as the matrix, and where in it.
struct MomentPlace {
    MomentTile tile;
    int64_t width;
    bool is_aligned;  // every row begins at a multiple of 16 bytes
};

APEX_BLOCK int columns_from(int64_t at, int64_t width) {
    return at >= width ? 0 : static_cast<int>(width - at < kCopied ? width - at : kCopied);
}

// Starts to bring memory.rows[begin] to [begin + kMomentStep], of n_rows; zeros beyond. A warp two
// rows.
APEX_BLOCK void bring_moment_rows(int thread, int begin, int n_rows, int half,
                                  const MomentPlace& place, MomentMemory& memory) {
    constexpr int kInRow = kMomentTile / kCopied, kAtOnce = kMomentThreads / kInRow;
    const int at = thread % kInRow * kCopied;
    const int64_t i = place.tile.row + at, j = place.tile.column + at;
    const int n_left = columns_from(i, place.width), n_right = columns_from(j, place.width);
    APEX_UNROLL
    for (int step = thread / kInRow; step < kMomentStep; step += kAtOnce) {
        const bool is_row = begin + step < n_rows;
        const float* row = memory.rows[is_row ? begin + step : 0];
        copy_ahead(&memory.left[half][step][at], row + (n_left > 0 ? i : 0), is_row ? n_left : 0,
                   place.is_aligned);
        copy_ahead(&memory.right[half][step][at], row + (n_right > 0 ? j : 0), is_row ? n_right : 0,
                   place.is_aligned);
    }
    end_copies();
}

struct alignas(16) Beside {
    float values[kBeside];
};

APEX_BLOCK void add_moment_row_products(int thread, const float* left_row, const float* right_row,
                                        MomentSums& sums) {
    float left[kMomentSide], right[kMomentSide];
    APEX_UNROLL
    for (int a = 0; a < kMomentSide; a += kBeside) {
        const Beside beside = *reinterpret_cast<const Beside*>(left_row + moment_row(thread, a));
        APEX_UNROLL
        for (int k = 0; k < kBeside; ++k) left[a + k] = beside.values[k];
    }
    APEX_UNROLL
    for (int b = 0; b < kMomentSide; ++b) right[b] = right_row[moment_column(thread, b)];
    APEX_UNROLL
    for (int a = 0; a < kMomentSide; ++a) {
        APEX_UNROLL
        for (int b = 0; b < kMomentSide; ++b) sums.sums[a][b] += left[a] * right[b];
    }
}

// n rows, and zeros up to a multiple of kBeside, which change no sum.
APEX_BLOCK void add_moment_rows(int thread, int n, int half, const MomentMemory& memory,
                                MomentSums& sums) {
    APEX_ROLLED
    for (int step = 0; step < n; step += kBeside) {
        APEX_UNROLL
        for (int k = 0; k < kBeside; ++k) {
            add_moment_row_products(thread, memory.left[half][step + k],
                                    memory.right[half][step + k], sums);
        }
    }
}

// Adds sums of a thread's elements of one row, those before the diagonal: sum(group, b), one group
// after the other. All are read before the first is written: a read behind a write would wait for
// the one before, a way to the memory each.
template <typename Sum>
APEX_BLOCK void add_moment_row(int thread, int64_t i, int64_t first, int n_groups, const Sum& sum,
                               double* to) {
    const int64_t left = i - first - thread % 16;  // from a thread's first column to the diagonal
    double* row = to + packed_size(i) + first + thread % 16;
    double values[kMomentSide];
    APEX_UNROLL
    for (int b = 0; b < kMomentSide; ++b) values[b] = 16 * b < left ? row[16 * b] : 0.0;
    APEX_ROLLED
    for (int group = 0; group < n_groups; ++group) {
        APEX_UNROLL
        for (int b = 0; b < kMomentSide; ++b) values[b] += static_cast<double>(sum(group, b));
    }
    APEX_UNROLL
    for (int b = 0; b < kMomentSide; ++b) {
        if (16 * b < left) row[16 * b] = values[b];
    }
}

// The a-th row of a thread's elements; sum(group, b). The diagonal is left as it is: exact squares
// are added to it (add_moment_squares).
template <typename Sum>
APEX_BLOCK void add_moment_elements(int thread, int a, const MomentPlace& place, int n_groups,
                                    const Sum& sum, double* to) {
    const int64_t i = opaque(place.tile.row + moment_row(thread, a));
    if (i < place.width) add_moment_row(thread, i, place.tile.column, n_groups, sum, to);
}

// Products of rows row(first) to row(first + count), kProductRows of them at most.
template <typename Row>
APEX_BLOCK void multiply_moment_rows(const Block& block, const Row& row, int first, int count,
                                     const MomentPlace& place, MomentMemory& memory,
                                     Block::PerThread<MomentSums>& sums) {
    block.run([&](int thread) {
        if (thread < count) memory.rows[thread] = row(first + thread);
        sums[thread] = MomentSums{};
    });
    block.run([&](int thread) { bring_moment_rows(thread, 0, count, 0, place, memory); });
    for (int begin = 0; begin < count; begin += kMomentStep) {
        const int half = begin / kMomentStep % 2;
        const int n = count - begin < kMomentStep ? count - begin : kMomentStep;
        block.run([&](int thread) {
            bring_moment_rows(thread, begin + kMomentStep, count, 1 - half, place, memory);
            wait_for_copies<1>();
        });
        block.run([&](int thread) { add_moment_rows(thread, n, half, memory, sums[thread]); });
    }
    block.run([&](int) { wait_for_copies<0>(); });
}

APEX_BLOCK int moment_group_rows(int first, int n_rows) {
    const int left = n_rows - first;
    return left < static_cast<int>(kProductRows) ? left : int{kProductRows};
}

// row(i): the i-th of n_rows rows that meet the matrix.
template <typename Row>
APEX_BLOCK void add_moment_products(const Block& block, const Row& row, int n_rows,
                                    const MomentPlace& place, double* to, MomentMemory& memory) {
    Block::PerThread<MomentSums> sums(block);
    for (int first = 0; first < n_rows; first += static_cast<int>(kProductRows)) {
        multiply_moment_rows(block, row, first, moment_group_rows(first, n_rows), place, memory,
                             sums);
        block.run([&](int thread) {
            APEX_UNROLL
            for (int a = 0; a < kMomentSide; ++a) {
                const auto sum = [&](int, int b) { return sums[thread].sums[a][b]; };
                add_moment_elements(thread, a, place, 1, sum, to);
            }
        });
    }
}

// Where few tiles would leave most of a GPU idle, groups of kProductRows rows are multiplied side
// by side and added one after the other: the same sums. Of one group and tile, kept in between:
inline constexpr int kMomentElements = kMomentTile * kMomentTile;

template <typename Row>
APEX_BLOCK void keep_moment_products(const Block& block, const Row& row, int first, int n_rows,
                                     const MomentPlace& place, MomentMemory& memory, float* kept) {
    Block::PerThread<MomentSums> sums(block);
    multiply_moment_rows(block, row, first, moment_group_rows(first, n_rows), place, memory, sums);
    block.run([&](int thread) {
        APEX_UNROLL
        for (int a = 0; a < kMomentSide; ++a) {
            APEX_UNROLL
            for (int b = 0; b < kMomentSide; ++b) {
                kept[(a * kMomentSide + b) * kMomentThreads + thread] = sums[thread].sums[a][b];
            }
        }
    });
}

// The a-th row of each thread's elements. step: from one group's to the next's.
APEX_BLOCK void add_kept_products(int thread, int a, const MomentPlace& place, const float* kept,
                                  int n_groups, int64_t step, double* to) {
    const auto sum = [&](int group, int b) {
        return kept[group * step + (a * kMomentSide + b) * kMomentThreads + thread];
    };
    add_moment_elements(thread, a, place, n_groups, sum, to);
}

// Of one column: the squares of the importance matrix, as it adds them.
APEX_BLOCK void add_moment_squares(int64_t column, double squares, double* to) {
    to[packed_size(column) + column] += squares;
}

}  // namespace apex::cuda
