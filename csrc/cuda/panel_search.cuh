// The search with error feedback for scalar formats (moments/scalar_rows.cpp) within a panel: the
// CPU's operations on each row in the CPU's order, hence its bytes.
//
// What one row needs one after the other (the levels of a block) a thread does for it, or, where
// there is a choice of scales, a thread for each. What a block's errors do to the panel's other
// columns the threads do side by side, a column each. What lies in the GPU's memory is read and
// written by panel_state.cuh, the second half of the search is panel_refine.cuh.
#pragma once

#include "cuda/panel_memory.cuh"
#include "cuda/scalar_levels.cuh"
#include "moments/scalar_bits.h"

namespace apex::cuda {

inline constexpr float kScaleStep = 0.03f;     // moments/scalar_rows.cpp
inline constexpr float kWorthwhile = 0.9999f;  // a change has to be worth this share of a cost

// The first of the least costs below the limit, or else `otherwise`.
APEX_BLOCK int least_cost(const float* costs, int stride, int count, float limit, int otherwise) {
    int chosen = otherwise;
    for (int trial = 0; trial < count; ++trial) {
        const float cost = costs[trial * stride];
        if (!(cost < limit)) continue;
        limit = cost;
        chosen = trial;
    }
    return chosen;
}

template <int kBlock, bool kBook>
class PanelSearch {
  public:
    // place.x: of groups of rows.
    APEX_BLOCK PanelSearch(const Block& block, const SearchJob& job, const SearchPlace& place,
                           void* shared)
        : block_(block),
          job_(job),
          format_(job.format),
          place_(place),
          first_row_(place.x * kRows),
          n_rows_(job.n_rows - first_row_ < kRows ? job.n_rows - first_row_ : kRows),
          begin_(place.panel * kPanel),
          width_(job.end_of(place.panel) - begin_),
          n_blocks_(width_ / kBlock),
          n_supers_(width_ / job.format.super_block()),
          first_block_(begin_ / kBlock),
          first_super_(begin_ / job.format.super_block()),
          basis_(job.basis(place.basis)),
          state_(state_of(job, place.basis)),
          memory_(job, kBlock, shared) {}

    // Scales as ggml chose them, columns as they are.
    APEX_BLOCK void read();
    // Block after block, each error made good in the panel's columns that follow.
    APEX_BLOCK void feed();
    // What all columns' errors are.
    APEX_BLOCK void differ() const;
    // Better levels and scales, block after block.
    APEX_BLOCK void refine();
    // d and dm of super-blocks by least squares.
    APEX_BLOCK void refit();
    APEX_BLOCK void write() const;

  private:
    static constexpr int kRows = kGroupRows;
    struct Scale {
        float d, s, dm, m;
        APEX_BLOCK float scale() const { return d * s; }
        APEX_BLOCK float minimum() const { return dm * m; }
    };

    // phase(i, row) for i below count, threads side by side.
    template <typename Phase>
    APEX_BLOCK void for_rows(int count, const Phase& phase) const {
        block_.run([&](int thread) {
            for (int i = thread; i < count * kRows; i += kSearchThreads) {
                phase(i / kRows, i % kRows);
            }
        });
    }
    // phase(column) for the panel's columns, a thread each.
    template <typename Phase>
    APEX_BLOCK void for_columns(const Phase& phase) const {
        block_.run([&](int thread) {
            if (thread < width_) phase(thread);
        });
    }

    // Columns, blocks and super-blocks count from the panel's first.
    APEX_BLOCK int super_of(int b) const { return b / format_.n_blocks; }
    APEX_BLOCK float& work(int row, int column) const {
        return memory_.work[row * PanelMemory::kRowStride + column];
    }
    APEX_BLOCK float& d(int super, int row) const { return memory_.d[super * kRows + row]; }
    APEX_BLOCK float& dm(int super, int row) const { return memory_.dm[super * kRows + row]; }
    APEX_BLOCK float& s(int b, int row) const { return memory_.s[b * kRows + row]; }
    APEX_BLOCK float& m(int b, int row) const { return memory_.m[b * kRows + row]; }
    APEX_BLOCK float level(int row, int column) const {
        return static_cast<float>(memory_.levels[column * kRows + row]);
    }
    APEX_BLOCK void set_level(int row, int column, float found) const {
        memory_.levels[column * kRows + row] = static_cast<int8_t>(found);
    }
    APEX_BLOCK Scale present(int b, int row) const {
        return {d(super_of(b), row), s(b, row), dm(super_of(b), row), m(b, row)};
    }
    APEX_BLOCK float restored(int row, int column) const {
        const Scale scale = present(column / kBlock, row);
        return scale.scale() * level(row, column) - scale.minimum();
    }
    // Of arrays of the state that have a line of all rows for each column, block or super-block.
    APEX_BLOCK int64_t at(int line, int row) const {
        return line * state_.stride + first_row_ + row;
    }
    // Rows past the last repeat it.
    APEX_BLOCK int row_of(int row) const {
        return first_row_ + (row < n_rows_ ? row : n_rows_ - 1);
    }
    // Of a super-block's bytes.
    APEX_BLOCK size_t place_of(int row, int super) const {
        return static_cast<size_t>(place_.basis) * job_.basis_bytes +
               static_cast<size_t>(row) * job_.row_bytes +
               static_cast<size_t>(first_super_ + super) * job_.block_bytes;
    }

    APEX_BLOCK void load_scales() const;
    APEX_BLOCK void store_scales() const;
    APEX_BLOCK void load_levels() const;
    APEX_BLOCK void store_levels() const;
    APEX_BLOCK void load_work() const;
    APEX_BLOCK void store_work() const;

    APEX_BLOCK int n_trials(int radius, bool both_signs) const;
    APEX_BLOCK Scale trial_scale(int b, int row, int trial, int radius, bool both_signs) const;
    template <typename Target>
    APEX_BLOCK void run_trials(int b, int radius, bool both_signs, const Target& target) const;
    APEX_BLOCK void take(int b, int row, int trial, int radius, bool both_signs) const;
    APEX_BLOCK void subtract(const float* columns, int lowest) const;
    APEX_BLOCK void store_change(int b) const;
    APEX_BLOCK void note_touched(int b) const;

    APEX_BLOCK void feed_block(int b) const;
    APEX_BLOCK void set_errors(int b, int row) const;

    APEX_BLOCK void refine_block(int b) const;
    APEX_BLOCK void set_targets(int b) const;
    APEX_BLOCK void choose_better(int b, int row, int radius) const;
    APEX_BLOCK void refine_levels(int b, int row) const;
    APEX_BLOCK void refit_super(int super) const;
    APEX_BLOCK void multiply(int super, const PanelMemory::Floats& product) const;
    APEX_BLOCK float fit_sum(int super, int which, int row) const;
    APEX_BLOCK void fit_row(int super, int row) const;
    APEX_BLOCK void note_change() const;

    const Block& block_;
    const SearchJob& job_;
    const ScalarFormat& format_;
    const SearchPlace place_;
    const int first_row_, n_rows_, begin_, width_, n_blocks_, n_supers_, first_block_, first_super_;
    const SearchBasis basis_;
    const SearchState state_;
    const PanelMemory memory_;
};

// --- scales and levels of a block ---------------------------------------------------------------

template <int kBlock, bool kBook>
APEX_BLOCK int PanelSearch<kBlock, kBook>::n_trials(int radius, bool both_signs) const {
    const int steps = 2 * radius + 1;
    const int minima = format_.has_integers && format_.has_minimum ? steps : 1;
    return (both_signs ? 2 : 1) * steps * minima;
}

// In the CPU's order: signs, steps of the scale, steps of the minimum.
template <int kBlock, bool kBook>
APEX_BLOCK typename PanelSearch<kBlock, kBook>::Scale PanelSearch<kBlock, kBook>::trial_scale(
    int b, int row, int trial, int radius, bool both_signs) const {
    Scale scale = present(b, row);
    const int steps = 2 * radius + 1;
    const int minima = n_trials(radius, both_signs) / steps / (both_signs ? 2 : 1);
    const auto step = static_cast<float>(trial / minima % steps - radius);
    const bool minus = trial / minima / steps == 1;
    if (!format_.has_integers) {
        const float factor = 1.0f + kScaleStep * step;
        scale.d = float_of_half(half_of(scale.d * (minus ? -factor : factor)));
        return scale;
    }
    scale.s = bounded((minus ? -scale.s : scale.s) + step, static_cast<float>(format_.min_scale),
                      static_cast<float>(format_.max_scale));
    const int m_step = minima == 1 ? 0 : trial % minima - radius;
    scale.m = bounded(scale.m + static_cast<float>(m_step), 0.0f,
                      static_cast<float>(format_.max_minimum));
    return scale;
}

// Costs and codes of all trials. memory_.root, pivots: of the block; target(row, values): what its
// columns should be.
template <int kBlock, bool kBook>
template <typename Target>
APEX_BLOCK void PanelSearch<kBlock, kBook>::run_trials(int b, int radius, bool both_signs,
                                                       const Target& target) const {
    for_rows(n_trials(radius, both_signs), [&](int trial, int row) {
        const Scale scale = trial_scale(b, row, trial, radius, both_signs);
        float values[kBlock];
        target(row, values);
        memory_.costs[trial * kRows + row] = quantize_block<kBlock, kBook>(
            format_, memory_.root.get(), memory_.pivots.get(), values, scale.scale(),
            scale.minimum(), memory_.codes.get() + trial * kBlock * kRows + row, kRows);
    });
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::take(int b, int row, int trial, int radius,
                                                 bool both_signs) const {
    const Scale scale = trial_scale(b, row, trial, radius, both_signs);
    d(super_of(b), row) = scale.d;
    s(b, row) = scale.s;
    m(b, row) = scale.m;
}

// work -= columns * change for a block's columns, from the panel's lowest column on.
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::subtract(const float* columns, int lowest) const {
    for_columns([&](int column) {
        if (column < lowest) return;
        float factors[kBlock], sums[kRows];
        APEX_UNROLL
        for (int j = 0; j < kBlock; ++j) factors[j] = columns[int64_t{j} * job_.n + column];
        APEX_UNROLL
        for (int row = 0; row < kRows; ++row) sums[row] = work(row, column);
        APEX_UNROLL
        for (int j = 0; j < kBlock; ++j) {
            float change[kRows];
            load_values(memory_.change.get() + j * kRows, change);
            APEX_UNROLL
            for (int row = 0; row < kRows; ++row) sums[row] -= factors[j] * change[row];
        }
        APEX_UNROLL
        for (int row = 0; row < kRows; ++row) work(row, column) = sums[row];
    });
}

// For the columns outside the panel.
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::store_change(int b) const {
    for_rows(kBlock, [&](int j, int row) {
        state_.change[at(b * kBlock + j, row)] = memory_.change[j * kRows + row];
    });
}

// --- feed forward -------------------------------------------------------------------------------

// Errors of a block's chosen levels, in units of their pivots, each made good behind it.
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::set_errors(int b, int row) const {
    const Scale scale = present(b, row);
    const float step = scale.scale(), minimum = scale.minimum();
    float values[kBlock];
    APEX_UNROLL
    for (int j = 0; j < kBlock; ++j) values[j] = work(row, b * kBlock + j);
    APEX_UNROLL
    for (int j = 0; j < kBlock; ++j) {
        const float found = memory_.chosen_levels[j * kRows + row];
        const float error = (values[j] - (step * found - minimum)) * memory_.pivots[j];
        memory_.change[j * kRows + row] = error;
        make_good<kBlock>(memory_.root.get(), j, error, values);
    }
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::feed_block(int b) const {
    const int first = b * kBlock, radius = job_.scale_radius;
    const bool both_signs = !format_.has_minimum;
    const float* root = basis_.root + int64_t{begin_ + first} * job_.n + begin_;
    block_.run([&](int thread) {
        for (int i = thread; i < kBlock * kBlock; i += kSearchThreads) {
            memory_.root[i] = root[int64_t{i / kBlock} * job_.n + first + i % kBlock];
        }
        if (thread < kBlock) {
            memory_.pivots[thread] = 1.0f / root[int64_t{thread} * job_.n + first + thread];
        }
    });
    run_trials(b, radius, both_signs, [&](int row, float (&values)[kBlock]) {
        APEX_UNROLL
        for (int j = 0; j < kBlock; ++j) values[j] = work(row, first + j);
    });
    const int count = n_trials(radius, both_signs);
    const int minima = count / (2 * radius + 1) / (both_signs ? 2 : 1);
    const int unchanged = radius * minima + minima / 2;  // the scale as it is
    for_rows(1, [&](int, int row) {
        memory_.chosen[row] = least_cost(memory_.costs.get() + row, kRows, count, 3e38f, unchanged);
    });
    for_rows(kBlock, [&](int j, int row) {
        const float found = memory_.codes[(memory_.chosen[row] * kBlock + j) * kRows + row];
        memory_.chosen_levels[j * kRows + row] = found;
        set_level(row, first + j, found);
    });
    for_rows(1, [&](int, int row) {
        take(b, row, memory_.chosen[row], radius, both_signs);
        set_errors(b, row);
    });
    store_change(b);
    subtract(root, first + kBlock);
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::feed() {
    load_scales();
    load_work();
    for (int b = 0; b < n_blocks_; ++b) feed_block(b);
    store_scales();
    store_levels();
}

}  // namespace apex::cuda
