// What rows are quantized under, from second moments (moments/moment_source.cpp, basis.cpp): every
// number the result of the CPU's operations in the CPU's order.
//
// An element of a factor is a number from which products are subtracted one after the other, then
// divided: in blocks of 64 columns that order stays, and most of the work is in tiles whose
// elements know nothing of each other.
#pragma once

#include "cuda/moment_recipe.h"
#include "cuda/portable.cuh"
#include "cuda/thread_block.cuh"
#include "moments/products.h"

namespace apex::cuda {

inline constexpr double kBlockDamping = 1e-6;  // moments/basis.cpp
inline constexpr int kFactor = 64;             // columns of a block, rows and columns of a tile
inline constexpr int kFactorThreads = 256;     // 16 x 16, of 4 x 4 elements
inline constexpr int kFactorStep = 16;         // products that are staged at a time

// Of a recipe: its element at i * (i + 1) / 2 + j for j <= i.
APEX_BLOCK double packed_element(const MomentRecipe& of, int64_t at) {
    double value = static_cast<double>(of.takes_total ? of.total[at] : of.part[at]);
    if (of.less_part) value = static_cast<double>(of.total[at]) - static_cast<double>(of.part[at]);
    if (of.layer != nullptr) value += of.layer_tokens * of.layer[at];
    return of.tokens > 0 ? value / of.tokens : value;
}

APEX_BLOCK double element_of(const MomentRecipe& of, int64_t i, int64_t j) {
    const int64_t at = i >= j ? packed_size(i) + j : packed_size(j) + i;
    const double value = packed_element(of, at);
    return i == j ? value : of.kept * value;
}

struct FactorMemory {
    Shared<double> triangle, tile, left, right;
    int n_floats;

    static constexpr int kTriangle = kFactor * kFactor, kStrip = kFactorStep * kFactor;
    APEX_HD explicit FactorMemory(void* of_block)
        : triangle(Shared<double>::at(of_block, 0)),
          tile(Shared<double>::at(of_block, 2 * kTriangle)),
          left(Shared<double>::at(of_block, 4 * kTriangle)),
          right(Shared<double>::at(of_block, 4 * kTriangle + 2 * kStrip)),
          n_floats(4 * kTriangle + 4 * kStrip) {}
};

// added = damping * mean of the diagonal, summed from its first element on.
APEX_BLOCK void find_damping(const Block& block, const MomentRecipe& recipe, int n, double damping,
                             double* added, const FactorMemory& memory) {
    constexpr int kChunk = 1024;
    double sum = 0.0;  // of thread 0
    for (int begin = 0; begin < n; begin += kChunk) {
        const int count = n - begin < kChunk ? n - begin : kChunk;
        block.run([&](int thread) {
            for (int i = thread; i < count; i += block.size()) {
                memory.tile[i] = element_of(recipe, begin + i, begin + i);
            }
        });
        block.run([&](int thread) {
            if (thread != 0) return;
            for (int i = 0; i < count; ++i) sum += memory.tile[i];
        });
    }
    block.run([&](int thread) {
        if (thread == 0) *added = damping * (sum / static_cast<double>(n));
    });
}

// T lower triangular with T^T T = triangle, in its place, rows `stride` apart. Sets failed where a
// pivot is not positive.
APEX_BLOCK void factor_in_place(const Block& block, const Shared<double>& triangle, int size,
                                int stride, int* failed, const Shared<double>& pivot) {
    for (int j = size - 1; j >= 0; --j) {
        block.run([&](int thread) {
            const double square = triangle[j * stride + j];
            if (thread == 0 && !(square > 0.0 && square - square == 0.0)) *failed = 1;
            const double root = sqrt(square);
            for (int i = thread; i < j; i += block.size()) triangle[j * stride + i] /= root;
            if (thread == 0) pivot[0] = root;
        });
        block.run([&](int thread) {
            if (thread == 0) triangle[j * stride + j] = pivot[0];
            for (int at = thread; at < j * kFactor; at += block.size()) {
                const int i = at / kFactor, c = at % kFactor;
                if (c > i) continue;
                triangle[i * stride + c] -= triangle[j * stride + i] * triangle[j * stride + c];
            }
        });
    }
}

// The block of columns from begin to end: its own triangle.
APEX_BLOCK void factor_triangle(const Block& block, double* matrix, int n, int begin, int end,
                                int* failed, const FactorMemory& memory) {
    const int size = end - begin;
    const Shared<double>& triangle = memory.triangle;
    block.run([&](int thread) {
        for (int i = thread; i < size * size; i += block.size()) {
            triangle[i / size * kFactor + i % size] =
                matrix[int64_t{begin + i / size} * n + begin + i % size];
        }
    });
    factor_in_place(block, triangle, size, kFactor, failed, memory.left);
    block.run([&](int thread) {
        for (int i = thread; i < size * size; i += block.size()) {
            if (i % size > i / size) continue;
            matrix[int64_t{begin + i / size} * n + begin + i % size] =
                triangle[i / size * kFactor + i % size];
        }
    });
}

// tile[i][column] -= factor(i) * solved for i from begin to end. Eight at a time: what is read does
// not wait for what was written before.
template <typename Factor>
APEX_BLOCK void subtract_in_column(const Shared<double>& tile, int column, int begin, int end,
                                   double solved, const Factor& factor) {
    constexpr int kTogether = 8;
    for (int first = begin; first < end; first += kTogether) {
        double products[kTogether], values[kTogether];
        APEX_UNROLL
        for (int r = 0; r < kTogether; ++r) {
            const int i = first + r < end ? first + r : end - 1;
            products[r] = factor(i) * solved;
            values[r] = tile[i * kFactor + column];
        }
        APEX_UNROLL
        for (int r = 0; r < kTogether; ++r) {
            if (first + r < end) tile[(first + r) * kFactor + column] = values[r] - products[r];
        }
    }
}

// The rows of a factored block in columns from first on, kFactor of them, before `begin`.
APEX_BLOCK void factor_panel(const Block& block, double* matrix, int n, int begin, int end,
                             int first, const FactorMemory& memory) {
    const int size = end - begin, width = begin - first < kFactor ? begin - first : kFactor;
    block.run([&](int thread) {
        for (int i = thread; i < size * kFactor; i += block.size()) {
            const int64_t row = int64_t{begin + i / kFactor} * n;
            const int column = i % kFactor;
            if (column < size) memory.triangle[i] = matrix[row + begin + column];
            if (column < width) memory.tile[i] = matrix[row + first + column];
        }
    });
    block.run([&](int column) {  // a thread each: columns know nothing of each other
        if (column >= width) return;
        for (int j = size - 1; j >= 0; --j) {
            const double solved =
                memory.tile[j * kFactor + column] / memory.triangle[j * kFactor + j];
            memory.tile[j * kFactor + column] = solved;
            const auto factor = [&](int i) { return memory.triangle[j * kFactor + i]; };
            subtract_in_column(memory.tile, column, 0, j, solved, factor);
        }
    });
    block.run([&](int thread) {
        for (int i = thread; i < size * kFactor; i += block.size()) {
            if (i % kFactor >= width) continue;
            matrix[int64_t{begin + i / kFactor} * n + first + i % kFactor] = memory.tile[i];
        }
    });
}

struct FactorTile {
    double of[4][4];
};

// Element (a, b) of a thread, at every 16th row and column.
APEX_BLOCK int tile_row(int thread, int a) {
    return thread / 16 + 16 * a;
}
APEX_BLOCK int tile_column(int thread, int b) {
    return thread % 16 + 16 * b;
}

// tile -= left[step][row] * right[step][column], one step after the other.
APEX_BLOCK void subtract_products(int thread, int n, const FactorMemory& memory, FactorTile& tile) {
    for (int step = 0; step < n; ++step) {
        double left[4], right[4];
        APEX_UNROLL
        for (int a = 0; a < 4; ++a) {
            left[a] = memory.left[step * kFactor + tile_row(thread, a)];
            right[a] = memory.right[step * kFactor + tile_column(thread, a)];
        }
        APEX_UNROLL
        for (int a = 0; a < 4; ++a) {
            APEX_UNROLL
            for (int b = 0; b < 4; ++b) tile.of[a][b] -= left[a] * right[b];
        }
    }
}

// What subtract_products takes, on its way: fetched from the GPU's memory while the step before is
// computed. A thread's share.
struct StagedProducts {
    static constexpr int kShare = kFactorStep * kFactor / kFactorThreads;
    double left[kShare], right[kShare];
};

// Of thread and share: which of the kFactorStep x kFactor that are staged.
APEX_BLOCK int staged_at(int thread, int share) {
    return thread + share * kFactorThreads;
}

// What the block of rows from begin to end takes from the tile at (first_row, first_column), the
// last row first.
APEX_BLOCK void update_tile(const Block& block, double* matrix, int n, int begin, int end,
                            int first_row, int first_column, const FactorMemory& memory) {
    Block::PerThread<FactorTile> tile(block);
    const auto for_elements = [&](int thread, const auto& use) {
        APEX_UNROLL
        for (int a = 0; a < 4; ++a) {
            const int i = first_row + tile_row(thread, a);
            APEX_UNROLL
            for (int b = 0; b < 4; ++b) {
                const int c = first_column + tile_column(thread, b);
                if (i < begin && c <= i) use(matrix[int64_t{i} * n + c], tile[thread].of[a][b]);
            }
        }
    };
    Block::PerThread<StagedProducts> staged(block);
    const auto fetch = [&](int thread, int last) {
        APEX_UNROLL
        for (int k = 0; k < StagedProducts::kShare; ++k) {
            const int i = staged_at(thread, k), at = i % kFactor, row = last - 1 - i / kFactor;
            const auto element = [&](int column) {
                return row >= begin && column < begin ? matrix[int64_t{row} * n + column] : 0.0;
            };
            staged[thread].left[k] = element(first_row + at);
            staged[thread].right[k] = element(first_column + at);
        }
    };
    block.run([&](int thread) {
        for_elements(thread, [](const double& from, double& to) { to = from; });
        fetch(thread, end);
    });
    for (int last = end; last > begin; last -= kFactorStep) {
        const int count = last - begin < kFactorStep ? last - begin : kFactorStep;
        block.run([&](int thread) {
            APEX_UNROLL
            for (int k = 0; k < StagedProducts::kShare; ++k) {
                memory.left[staged_at(thread, k)] = staged[thread].left[k];
                memory.right[staged_at(thread, k)] = staged[thread].right[k];
            }
        });
        block.run([&](int thread) {
            fetch(thread, last - kFactorStep);
            subtract_products(thread, count, memory, tile[thread]);
        });
    }
    block.run([&](int thread) {
        for_elements(thread, [](double& to, const double& from) { to = from; });
    });
}

// What rows of the inverse above `begin` take from the tile at (begin, first).
APEX_BLOCK void subtract_rows_above(const Block& block, const double* factor, int n, int first,
                                    int begin, int size, const double* root,
                                    const FactorMemory& memory,
                                    Block::PerThread<FactorTile>& tile) {
    Block::PerThread<StagedProducts> staged(block);
    // Of the left: 4 steps of a row by 4 threads side by side, another 4 the next share.
    const auto fetch = [&](int thread, int k) {
        APEX_UNROLL
        for (int share = 0; share < StagedProducts::kShare; ++share) {
            const int at = thread / 4, step = share * 4 + thread % 4;
            const int i = staged_at(thread, share), column = first + i % kFactor;
            staged[thread].left[share] =
                at < size ? factor[int64_t{begin + at} * n + k + step] : 0.0;
            staged[thread].right[share] =
                column < n ? root[int64_t{k + i / kFactor} * n + column] : 0.0;
        }
    };
    if (first < begin) block.run([&](int thread) { fetch(thread, first); });
    for (int k = first; k < begin; k += kFactorStep) {  // whole steps: both are multiples of 64
        block.run([&](int thread) {
            APEX_UNROLL
            for (int share = 0; share < StagedProducts::kShare; ++share) {
                const int at = thread / 4, step = share * 4 + thread % 4;
                memory.left[step * kFactor + at] = staged[thread].left[share];
                memory.right[staged_at(thread, share)] = staged[thread].right[share];
            }
        });
        block.run([&](int thread) {
            if (k + kFactorStep < begin) fetch(thread, k + kFactorStep);
            subtract_products(thread, kFactorStep, memory, tile[thread]);
        });
    }
}

// memory.tile becomes T^-1 times itself, T being memory.triangle.
APEX_BLOCK void solve_tile(const Block& block, int size, const FactorMemory& memory) {
    block.run([&](int column) {  // a thread each: columns know nothing of each other
        if (column >= kFactor) return;
        for (int k = 0; k < size; ++k) {
            const double solved =
                memory.tile[k * kFactor + column] / memory.triangle[k * kFactor + k];
            memory.tile[k * kFactor + column] = solved;
            const auto factor = [&](int i) { return memory.triangle[i * kFactor + k]; };
            subtract_in_column(memory.tile, column, k + 1, size, solved, factor);
        }
    });
}

// Columns first to first + kFactor of the inverse of T, from the diagonal down.
APEX_BLOCK void invert_columns(const Block& block, const double* factor, int n, int first,
                               double* root, const FactorMemory& memory) {
    Block::PerThread<FactorTile> tile(block);
    const auto for_elements = [](int thread, const auto& use) {
        APEX_UNROLL
        for (int at = 0; at < 16; ++at) {
            use(tile_row(thread, at / 4), tile_column(thread, at % 4), at / 4, at % 4);
        }
    };
    for (int begin = first; begin < n; begin += kFactor) {
        const int size = n - begin < kFactor ? n - begin : kFactor;
        block.run([&](int thread) {
            for_elements(thread, [&](int i, int c, int a, int b) {
                tile[thread].of[a][b] = begin + i == first + c ? 1.0 : 0.0;
            });
            for (int i = thread; i < size * kFactor; i += block.size()) {
                if (i % kFactor >= size) continue;
                memory.triangle[i] = factor[int64_t{begin + i / kFactor} * n + begin + i % kFactor];
            }
        });
        subtract_rows_above(block, factor, n, first, begin, size, root, memory, tile);
        block.run([&](int thread) {
            for_elements(thread, [&](int i, int c, int a, int b) {
                memory.tile[i * kFactor + c] = tile[thread].of[a][b];
            });
        });
        solve_tile(block, size, memory);
        block.run([&](int thread) {
            for (int i = thread; i < size * kFactor; i += block.size()) {
                const int row = begin + i / kFactor, column = first + i % kFactor;
                if (column < n) root[int64_t{row} * n + column] = memory.tile[i];
            }
        });
    }
}

// One square block along the diagonal: its root, transposed, and its inverse (make_blocks).
APEX_BLOCK void invert_block(const Block& block, const float* moment, int n, int first, int size,
                             float* block_root, float* block_inverse, int* failed,
                             const FactorMemory& memory) {
    const Shared<double>&factor = memory.triangle, &root = memory.tile;
    block.run([&](int thread) {
        for (int i = thread; i < size * size; i += block.size()) {
            factor[i] = moment[int64_t{first + i / size} * n + first + i % size];
            root[i] = 0.0;
        }
    });
    block.run([&](int thread) {
        if (thread != 0) return;
        double sum = 0.0;
        for (int i = 0; i < size; ++i) sum += factor[i * size + i];
        const double added = kBlockDamping * (sum / static_cast<double>(size));
        for (int i = 0; i < size; ++i) factor[i * size + i] += added;
    });
    factor_in_place(block, factor, size, size, failed, memory.left);
    block.run([&](int thread) {
        for (int c = thread; c < size; c += block.size()) {
            for (int i = c; i < size; ++i) {
                double value = i == c ? 1.0 : 0.0;
                for (int k = c; k < i; ++k) value -= factor[i * size + k] * root[k * size + c];
                root[i * size + c] = value / factor[i * size + i];
            }
        }
    });
    block.run([&](int thread) {
        for (int at = thread; at < size * size; at += block.size()) {
            const int i = at / size, j = at % size;
            block_root[at] = static_cast<float>(root[j * size + i]);
            double sum = 0.0;
            for (int k = 0; k <= (i < j ? i : j); ++k) {
                sum += root[i * size + k] * root[j * size + k];
            }
            block_inverse[at] = static_cast<float>(sum);
        }
    });
}

}  // namespace apex::cuda
