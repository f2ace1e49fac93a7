// What a panel's changes do to the columns outside it, and the gradient of all: products of a
// matrix with a value of each row, kTileRows rows and kTileColumns columns a block of threads.
//
// A thread owns 8 rows of 4 columns. A warp's threads have the same rows, so that these values are
// read once for all of them, and columns side by side.
#pragma once

#include "cuda/search_job.cuh"

namespace apex::cuda {

inline constexpr int kStagedColumns = 32;  // whose values are in shared memory at a time
inline constexpr int kThreadRows = 8;
inline constexpr int kThreadColumns = 4;
static_assert(kSearchThreads / 32 * kThreadRows == kTileRows);
static_assert(32 * kThreadColumns == kTileColumns);

struct alignas(16) ProductMemory {
    float values[kStagedColumns][kTileRows];
    float factors[kStagedColumns][kTileColumns];
};

struct ProductSums {
    float of[kThreadRows][kThreadColumns];
};

class PanelProducts {
  public:
    // place.x: of tiles of rows; column: the tile's first.
    APEX_BLOCK PanelProducts(const Block& block, const SearchJob& job, const SearchPlace& place,
                             int column, ProductMemory& memory)
        : block_(block),
          job_(job),
          basis_(job.basis(place.basis)),
          state_(state_of(job, place.basis)),
          memory_(memory),
          begin_(place.panel * kPanel),
          width_(job.end_of(place.panel) - begin_),
          first_row_(place.x * kTileRows),
          column_(column) {}

    // work -= matrix rows * change, over a panel's columns one after the other.
    APEX_BLOCK void spread(const float* matrix) const {
        Block::PerThread<ProductSums> sums(block_);
        block_.run([&](int thread) {
            for_rows(thread, [&](int a, float* at) {
                for (int b = 0; b < kThreadColumns; ++b) sums[thread].of[a][b] = at[b];
            });
        });
        const auto change = [&](int i, int row) { return state_.change[i * state_.stride + row]; };
        for (int begin = 0; begin < width_; begin += kStagedColumns) {
            const int count = width_ - begin < kStagedColumns ? width_ - begin : kStagedColumns;
            stage(matrix, begin, 1, count, change);
            block_.run([&](int thread) { add<false>(thread, count, sums[thread]); });
        }
        block_.run([&](int thread) {
            for_rows(thread, [&](int a, float* at) {
                for (int b = 0; b < kThreadColumns; ++b) at[b] = sums[thread].of[a][b];
            });
        });
    }
    APEX_BLOCK void spread_errors() const { spread(basis_.root); }
    APEX_BLOCK void spread_changes() const { spread(basis_.moment); }

    // work = moment * change, over all columns.
    APEX_BLOCK void set_gradient() const {
        Block::PerThread<ProductSums> products(block_);
        multiply(
            0, job_.n, [&](int i, int row) { return state_.change[i * state_.stride + row]; },
            products);
        block_.run([&](int thread) {
            for_rows(thread, [&](int a, float* at) {
                for (int b = 0; b < kThreadColumns; ++b) at[b] = products[thread].of[a][b];
            });
        });
    }

    // work -= what the panel's new d and dm do, super-block after super-block.
    APEX_BLOCK void spread_scales() const {
        const ScalarFormat& format = job_.format;
        const int width = format.super_block();
        const auto block_of = [&](int i) { return ((begin_ + i) / format.block) * state_.stride; };
        for (int super = 0; super * width < width_; ++super) {
            subtract_step(super * width, state_.steps + super * state_.stride, [&](int i, int row) {
                const int8_t level = state_.levels[(begin_ + i) * state_.stride + row];
                return state_.s[block_of(i) + row] * static_cast<float>(level);
            });
            if (!format.has_minimum) continue;
            subtract_step(super * width, state_.steps + (kPanelSupers + super) * state_.stride,
                          [&](int i, int row) { return -state_.m[block_of(i) + row]; });
        }
    }

  private:
    // use(a, address) for a thread's rows, those past the last left out.
    template <typename Use>
    APEX_BLOCK void for_rows(int thread, const Use& use) const {
        const int column = column_ + thread % 32 * kThreadColumns;
        if (column >= job_.n) return;
        APEX_UNROLL
        for (int a = 0; a < kThreadRows; ++a) {
            const int row = first_row_ + thread / 32 * kThreadRows + a;
            if (row < state_.stride) use(a, state_.work + int64_t{row} * job_.n + column);
        }
    }

    // value(i, row) and the matrix' rows, for the panel's columns first, first + step, ...
    template <typename Value>
    APEX_BLOCK void stage(const float* matrix, int first, int step, int count,
                          const Value& value) const {
        block_.run([&](int thread) {
            for (int at = thread; at < count * kTileRows; at += kSearchThreads) {
                const int i = at / kTileRows, row = first_row_ + at % kTileRows;
                memory_.values[i][at % kTileRows] =
                    row < state_.stride ? value(first + step * i, row) : 0.0f;
            }
            const int column = column_ + thread % 32 * kThreadColumns;
            for (int i = thread / 32; i < count; i += kSearchThreads / 32) {
                float factors[kThreadColumns] = {};
                const int64_t row = begin_ + first + step * i;
                if (column < job_.n) load_values(matrix + row * job_.n + column, factors);
                for (int b = 0; b < kThreadColumns; ++b) {
                    memory_.factors[i][thread % 32 * kThreadColumns + b] = factors[b];
                }
            }
        });
    }

    template <bool kAdd>
    APEX_BLOCK void add(int thread, int count, ProductSums& sums) const {
        for (int i = 0; i < count; ++i) {
            float values[kThreadRows], factors[kThreadColumns];
            load_values(memory_.values[i] + thread / 32 * kThreadRows, values);
            load_values(memory_.factors[i] + thread % 32 * kThreadColumns, factors);
            APEX_UNROLL
            for (int a = 0; a < kThreadRows; ++a) {
                APEX_UNROLL
                for (int b = 0; b < kThreadColumns; ++b) {
                    float& sum = sums.of[a][b];
                    sum = kAdd ? sum + factors[b] * values[a] : sum - factors[b] * values[a];
                }
            }
        }
    }

    // products = the moment's rows * value over `count` columns of the panel from first on: every
    // fourth is added by itself, then (0 + 1) + (2 + 3).
    template <typename Value>
    APEX_BLOCK void multiply(int first, int count, const Value& value,
                             Block::PerThread<ProductSums>& products) const {
        Block::PerThread<ProductSums> sums(block_), parked(block_);
        APEX_UNROLL
        for (int fourth = 0; fourth < 4; ++fourth) {
            block_.run([&](int thread) { sums[thread] = ProductSums{}; });
            for (int begin = 0; begin < count / 4; begin += kStagedColumns) {
                const int left = count / 4 - begin;
                const int n = left < kStagedColumns ? left : kStagedColumns;
                stage(basis_.moment, first + fourth + 4 * begin, 4, n, value);
                block_.run([&](int thread) { add<true>(thread, n, sums[thread]); });
            }
            block_.run([&](int thread) {
                combine(fourth, sums[thread], products[thread], parked[thread]);
            });
        }
    }

    APEX_BLOCK static void combine(int fourth, const ProductSums& sums, ProductSums& products,
                                   ProductSums& parked) {
        APEX_UNROLL
        for (int i = 0; i < kThreadRows * kThreadColumns; ++i) {
            const float sum = sums.of[i / kThreadColumns][i % kThreadColumns];
            float& product = products.of[i / kThreadColumns][i % kThreadColumns];
            float& kept = parked.of[i / kThreadColumns][i % kThreadColumns];
            if (fourth == 0) product = sum;
            if (fourth == 1) product = product + sum;
            if (fourth == 2) kept = sum;
            if (fourth == 3) product = product + (kept + sum);
        }
    }

    // work -= steps * the product of a super-block's values.
    template <typename Value>
    APEX_BLOCK void subtract_step(int first, const float* steps, const Value& value) const {
        Block::PerThread<ProductSums> products(block_);
        multiply(first, job_.format.super_block(), value, products);
        block_.run([&](int thread) {
            for_rows(thread, [&](int a, float* at) {
                const float step = steps[first_row_ + thread / 32 * kThreadRows + a];
                for (int b = 0; b < kThreadColumns; ++b) at[b] -= step * products[thread].of[a][b];
            });
        });
    }

    const Block& block_;
    const SearchJob& job_;
    const SearchBasis basis_;
    const SearchState state_;
    ProductMemory& memory_;
    const int begin_, width_, first_row_, column_;
};

}  // namespace apex::cuda
