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
    int rows[kTileRows];         // -1: none
    uint32_t marks[kPanel / 4];  // a byte a column of the panel, 1 where it is wanted
    int columns[kPanel];         // those wanted, rising
    int n_columns;
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

    // work -= the root's rows * change, over a panel's columns one after the other.
    APEX_BLOCK void spread_errors() const {
        take_rows();
        spread(basis_.root, width_, [](int i) { return i; });
    }

    // The same with the moment, columns in which no row changed left out: nearly all of them after
    // the first passes.
    APEX_BLOCK void spread_changes() const {
        take_rows();
        take_touched();
        const int count = memory_.n_columns;
        if (count > 0) spread(basis_.moment, count, [&](int i) { return memory_.columns[i]; });
    }

    // work = moment * change, over all columns.
    APEX_BLOCK void set_gradient() const {
        take_rows();
        Block::PerThread<ProductSums> products(block_);
        multiply(
            0, job_.n, [&](int i, int row) { return state_.change[i * state_.stride + row]; },
            products);
        store(products);
    }

    // work -= what the panel's new d and dm do, super-block after super-block, in rows that have
    // new ones.
    APEX_BLOCK void spread_scales() const {
        const ScalarFormat& format = job_.format;
        const int width = format.super_block();
        const auto block_of = [&](int i) { return ((begin_ + i) / format.block) * state_.stride; };
        for (int super = 0; super * width < width_; ++super) {
            const int count = state_.n_better[begin_ / kPanel * kPanelSupers + super];
            if (first_row_ >= count) continue;
            block_.run([&](int thread) {
                if (thread >= kTileRows) return;
                const int i = first_row_ + thread;
                memory_.rows[thread] = i < count ? state_.better[super * state_.stride + i] : -1;
            });
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
    APEX_BLOCK void take_rows() const {
        block_.run([&](int thread) {
            const int row = first_row_ + thread;
            if (thread < kTileRows) memory_.rows[thread] = row < state_.stride ? row : -1;
        });
    }

    // Columns that changed in one of the tile's rows.
    APEX_BLOCK void take_touched() const {
        const int first = first_row_ / kGroupRows, n_groups = job_.n_groups();
        const int end =
            first + kTileRows / kGroupRows < n_groups ? first + kTileRows / kGroupRows : n_groups;
        block_.run([&](int thread) {
            bool touched = false;
            for (int group = first; group < end && thread < width_; ++group) {
                touched |= state_.touched[thread * n_groups + group] != 0;
            }
            reinterpret_cast<uint8_t*>(memory_.marks)[thread] = touched ? 1 : 0;
        });
        block_.run([&](int thread) {
            const auto sum = [](uint32_t bytes) { return (bytes * 0x01010101u) >> 24; };
            const uint32_t own = memory_.marks[thread / 4];
            uint32_t place = sum(own & ((1u << thread % 4 * 8) - 1));
            for (int i = 0; i < thread / 4; ++i) place += sum(memory_.marks[i]);
            const uint32_t is_wanted = own >> thread % 4 * 8 & 1;
            if (is_wanted != 0) memory_.columns[place] = thread;
            if (thread == kPanel - 1) memory_.n_columns = static_cast<int>(place + is_wanted);
        });
    }

    // work -= matrix rows * change, over `count` of the panel's columns, of which the i-th is
    // column(i).
    template <typename Column>
    APEX_BLOCK void spread(const float* matrix, int count, const Column& column) const {
        Block::PerThread<ProductSums> sums(block_);
        block_.run([&](int thread) {
            for_rows(thread, [&](int a, int, float* at) {
                for (int b = 0; b < kThreadColumns; ++b) sums[thread].of[a][b] = at[b];
            });
        });
        const auto change = [&](int i, int row) { return state_.change[i * state_.stride + row]; };
        for (int begin = 0; begin < count; begin += kStagedColumns) {
            const int n = count - begin < kStagedColumns ? count - begin : kStagedColumns;
            stage(matrix, n, [&](int i) { return column(begin + i); }, change);
            block_.run([&](int thread) { add<false>(thread, n, sums[thread]); });
        }
        store(sums);
    }

    APEX_BLOCK void store(Block::PerThread<ProductSums>& sums) const {
        block_.run([&](int thread) {
            for_rows(thread, [&](int a, int, float* at) {
                for (int b = 0; b < kThreadColumns; ++b) at[b] = sums[thread].of[a][b];
            });
        });
    }

    // use(a, row, address) for a thread's rows.
    template <typename Use>
    APEX_BLOCK void for_rows(int thread, const Use& use) const {
        const int column = column_ + thread % 32 * kThreadColumns;
        if (column >= job_.n) return;
        APEX_UNROLL
        for (int a = 0; a < kThreadRows; ++a) {
            const int row = memory_.rows[thread / 32 * kThreadRows + a];
            if (row >= 0) use(a, row, state_.work + int64_t{row} * job_.n + column);
        }
    }

    // value(column, row) and the matrix' rows for some of the panel's columns, of which the i-th is
    // column(i).
    template <typename Column, typename Value>
    APEX_BLOCK void stage(const float* matrix, int count, const Column& column,
                          const Value& value) const {
        block_.run([&](int thread) {
            for (int at = thread; at < count * kTileRows; at += kSearchThreads) {
                const int i = at / kTileRows, row = memory_.rows[at % kTileRows];
                memory_.values[i][at % kTileRows] = row >= 0 ? value(column(i), row) : 0.0f;
            }
            const int first = column_ + thread % 32 * kThreadColumns;
            for (int i = thread / 32; i < count; i += kSearchThreads / 32) {
                float factors[kThreadColumns] = {};
                const int64_t row = begin_ + column(i);
                if (first < job_.n) load_values(matrix + row * job_.n + first, factors);
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
                const auto column = [&](int i) { return first + fourth + 4 * (begin + i); };
                stage(basis_.moment, n, column, value);
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
            for_rows(thread, [&](int a, int row, float* at) {
                const float step = steps[row];
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
