// The search with error feedback for scalar formats (moments/scalar_rows.cpp), some rows a block of
// threads: the CPU's operations on each row in the CPU's order, hence its bytes.
//
// What takes the time is one loop, accumulate(): columns of n numbers times a few values of each
// row, added to all columns. A thread owns every n_threads-th column, kSlots of them, of kRows
// rows. What one row needs one after the other (the levels of a block) a thread does for it, or,
// where there is a choice of scales, a thread for each. Its second half is scalar_refine.cuh.
#pragma once

#include "cuda/scalar_levels.cuh"
#include "cuda/search_memory.cuh"
#include "cuda/thread_block.cuh"
#include "moments/scalar_bits.h"

namespace apex::cuda {

inline constexpr float kScaleStep = 0.03f;     // moments/scalar_rows.cpp
inline constexpr float kWorthwhile = 0.9999f;  // a change has to be worth this share of a cost

template <int kBlock, bool kBook, int kRows, int kSlots>
class ScalarSearch {
  public:
    // number: of these rows; basis: the one they are quantized under.
    APEX_BLOCK ScalarSearch(const Block& block, const SearchJob& job, int number, int basis,
                            int place, void* shared)
        : block_(block),
          job_(job),
          format_(job.format),
          n_(job.n),
          n_blocks_(job.n / kBlock),
          n_supers_(job.n / job.format.super_block()),
          first_row_(number * kRows),
          n_rows_(job.n_rows - number * kRows < kRows ? job.n_rows - number * kRows : kRows),
          basis_(job.basis(basis, kBlock)),
          memory_(job, kBlock, kRows, shared),
          result_(job.result + static_cast<size_t>(basis) * job.basis_bytes),
          start_(job.start + static_cast<size_t>(basis) * job.basis_bytes) {
        float* scratch = job.scratch + int64_t{place} * kScratchArrays * kRows * n_;
        levels_ = scratch;
        product_ = scratch + kRows * n_;
        minima_product_ = scratch + 2 * kRows * n_;
        parked_ = scratch + 3 * kRows * n_;
    }

    APEX_BLOCK void run() {
        read();
        for (int b = 0; b < n_blocks_; ++b) feed_block(b);
        set_gradient();
        for (int pass = 0; pass < job_.max_passes; ++pass) {
            bool changed = false;
            for (int b = 0; b < n_blocks_; ++b) changed |= refine_block(b);
            for (int super = 0; super < n_supers_; ++super) changed |= refit(super);
            if (!changed) break;
        }
        write();
    }

  private:
    struct Sums {
        float of[kSlots][kRows];
    };
    struct Scale {
        float d, s, dm, m;
        APEX_BLOCK float scale() const { return d * s; }
        APEX_BLOCK float minimum() const { return dm * m; }
    };

    // phase(i, row) for i below count, threads side by side.
    template <typename Phase>
    APEX_BLOCK void for_rows(int count, const Phase& phase) const {
        block_.run([&](int thread) {
            for (int i = thread; i < count * kRows; i += block_.size()) phase(i / kRows, i % kRows);
        });
    }

    APEX_BLOCK int super_of(int b) const { return b / format_.n_blocks; }
    APEX_BLOCK float& work(int row, int column) const {
        return memory_.work[row * (n_ + 1) + column];
    }
    APEX_BLOCK float& d(int super, int row) const { return memory_.d[super * kRows + row]; }
    APEX_BLOCK float& dm(int super, int row) const { return memory_.dm[super * kRows + row]; }
    APEX_BLOCK float& s(int b, int row) const { return memory_.s[b * kRows + row]; }
    APEX_BLOCK float& m(int b, int row) const { return memory_.m[b * kRows + row]; }
    APEX_BLOCK float& level(int row, int column) const { return levels_[row * n_ + column]; }
    APEX_BLOCK Scale present(int b, int row) const {
        return {d(super_of(b), row), s(b, row), dm(super_of(b), row), m(b, row)};
    }
    APEX_BLOCK float restored(int row, int column) const {
        const Scale scale = present(column / kBlock, row);
        return scale.scale() * level(row, column) - scale.minimum();
    }
    // Rows past the last repeat it.
    APEX_BLOCK int row_of(int row) const {
        return first_row_ + (row < n_rows_ ? row : n_rows_ - 1);
    }

    APEX_APART void read();
    APEX_APART void write();
    APEX_APART void feed_block(int b);
    APEX_APART void set_gradient();
    APEX_APART bool refine_block(int b);
    APEX_APART bool refit(int super);

    APEX_BLOCK int n_trials(int radius, bool both_signs) const;
    APEX_BLOCK Scale trial_scale(int b, int row, int trial, int radius, bool both_signs) const;
    template <typename Target>
    APEX_APART void run_trials(int b, int radius, bool both_signs, const Target& target);
    APEX_BLOCK void take(int b, int row, int trial, int radius, bool both_signs);
    APEX_APART void set_errors(int b, int row);
    APEX_APART void set_targets(int b);
    APEX_BLOCK void choose_better(int b, int row, int radius);
    APEX_BLOCK void fit_row(int super, int row);
    APEX_APART void refine_levels(int b, int row);
    template <bool kAdd>
    APEX_BLOCK void accumulate(int thread, const float* columns, int64_t stride,
                               const float* values, int count, int lowest, Sums& sums) const;
    template <typename Value>
    APEX_BLOCK void accumulate_strided(int first, int count, const Value& value,
                                       Block::PerThread<Sums>& sums);
    template <typename Values, typename Product>
    APEX_APART void multiply(int first, int count, const Values& values, const Product& product);
    APEX_APART void subtract(const float* columns, int lowest);
    template <typename Use>
    APEX_BLOCK void for_slots(int thread, const Use& use) const {
        APEX_UNROLL
        for (int slot = 0; slot < kSlots; ++slot) {
            const int column = slot * block_.size() + thread;
            if (column >= n_) continue;
            APEX_UNROLL
            for (int row = 0; row < kRows; ++row) use(slot, row, column);
        }
    }

    const Block& block_;
    const SearchJob& job_;
    const ScalarFormat& format_;
    const int n_, n_blocks_, n_supers_, first_row_, n_rows_;
    const SearchBasis basis_;
    const SearchMemory memory_;
    uint8_t* result_;
    const uint8_t* start_;
    float *levels_, *product_, *minima_product_, *parked_;
};

template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_APART void ScalarSearch<kBlock, kBook, kRows, kSlots>::read() {
    const int per_super = format_.n_blocks;
    for_rows(n_supers_, [&](int super, int row) {
        const uint8_t* stored =
            start_ + row_of(row) * job_.row_bytes + static_cast<size_t>(super) * job_.block_bytes;
        const size_t place = scalar_bits::place_of_d(format_.type);
        d(super, row) = read_half(stored + place);
        dm(super, row) = format_.has_minimum ? read_half(stored + place + 2) : 0.0f;
        for (int j = 0; j < per_super; ++j) {
            int scale = 1, minimum = 0;
            scalar_bits::read_integers(format_.type, stored, j, scale, minimum);
            s(super * per_super + j, row) = static_cast<float>(scale);
            m(super * per_super + j, row) = static_cast<float>(minimum);
        }
    });
    block_.run([&](int thread) {
        for_slots(thread, [&](int, int row, int column) {
            work(row, column) = job_.weights[int64_t{row_of(row)} * n_ + column];
        });
    });
}

template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_APART void ScalarSearch<kBlock, kBook, kRows, kSlots>::write() {
    const int per_super = format_.n_blocks;
    for_rows(n_supers_, [&](int super, int row) {
        if (row >= n_rows_) return;
        ScalarBlock parts;
        for (int j = 0; j < per_super; ++j) {
            parts.s[j] = static_cast<int>(s(super * per_super + j, row));
            parts.m[j] = static_cast<int>(m(super * per_super + j, row));
        }
        for (int i = 0; i < format_.super_block(); ++i) {
            const float found = level(row, super * format_.super_block() + i);
            parts.codes[i] = code_of<kBook>(format_, found);
        }
        uint8_t* stored = result_ + (first_row_ + row) * job_.row_bytes +
                          static_cast<size_t>(super) * job_.block_bytes;
        for (size_t i = 0; i < job_.block_bytes; ++i) stored[i] = 0;
        const size_t place = scalar_bits::place_of_d(format_.type);
        write_half(d(super, row), stored + place);
        if (format_.has_minimum) write_half(dm(super, row), stored + place + 2);
        scalar_bits::write_codes(format_.type, parts, stored);
    });
}

// sums -= (or +=) columns[j][column] * values[j][row] for j below count, one after the other. Slots
// that lie wholly before the lowest column are left out.
template <int kBlock, bool kBook, int kRows, int kSlots>
template <bool kAdd>
APEX_BLOCK void ScalarSearch<kBlock, kBook, kRows, kSlots>::accumulate(
    int thread, const float* columns, int64_t stride, const float* values, int count, int lowest,
    Sums& sums) const {
    APEX_TWICE
    for (int j = 0; j < count; ++j, columns += stride, values += kRows) {
        float own[kRows];
        load_values(values, own);
        APEX_UNROLL
        for (int slot = 0; slot < kSlots; ++slot) {
            if ((slot + 1) * block_.size() <= lowest) continue;
            const int column = slot * block_.size() + thread;
            const float factor = column < n_ ? columns[column] : 0.0f;
            APEX_UNROLL
            for (int row = 0; row < kRows; ++row) {
                float& sum = sums.of[slot][row];
                sum = kAdd ? sum + factor * own[row] : sum - factor * own[row];
            }
        }
    }
}

// work -= columns * change for a block's columns, from the lowest column on.
template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_APART void ScalarSearch<kBlock, kBook, kRows, kSlots>::subtract(const float* columns,
                                                                     int lowest) {
    block_.run([&](int thread) {
        Sums sums{};
        for_slots(thread,
                  [&](int slot, int row, int column) { sums.of[slot][row] = work(row, column); });
        accumulate<false>(thread, columns, n_, memory_.change.get(), kBlock, lowest, sums);
        for_slots(thread, [&](int slot, int row, int column) {
            if (column >= lowest) work(row, column) = sums.of[slot][row];
        });
    });
}

// --- scales and levels of a block ---------------------------------------------------------------

template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_BLOCK int ScalarSearch<kBlock, kBook, kRows, kSlots>::n_trials(int radius,
                                                                    bool both_signs) const {
    const int steps = 2 * radius + 1;
    const int minima = format_.has_integers && format_.has_minimum ? steps : 1;
    return (both_signs ? 2 : 1) * steps * minima;
}

// In the CPU's order: signs, steps of the scale, steps of the minimum.
template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_BLOCK typename ScalarSearch<kBlock, kBook, kRows, kSlots>::Scale
ScalarSearch<kBlock, kBook, kRows, kSlots>::trial_scale(int b, int row, int trial, int radius,
                                                        bool both_signs) const {
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
template <int kBlock, bool kBook, int kRows, int kSlots>
template <typename Target>
APEX_APART void ScalarSearch<kBlock, kBook, kRows, kSlots>::run_trials(int b, int radius,
                                                                       bool both_signs,
                                                                       const Target& target) {
    for_rows(n_trials(radius, both_signs), [&](int trial, int row) {
        const Scale scale = trial_scale(b, row, trial, radius, both_signs);
        float values[kBlock];
        target(row, values);
        memory_.costs[trial * kRows + row] = quantize_block<kBlock, kBook>(
            format_, memory_.root.get(), memory_.pivots.get(), values, scale.scale(),
            scale.minimum(), memory_.codes.get() + trial * kBlock * kRows + row, kRows);
    });
}

template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_BLOCK void ScalarSearch<kBlock, kBook, kRows, kSlots>::take(int b, int row, int trial,
                                                                 int radius, bool both_signs) {
    const Scale scale = trial_scale(b, row, trial, radius, both_signs);
    d(super_of(b), row) = scale.d;
    s(b, row) = scale.s;
    m(b, row) = scale.m;
}

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

// --- feed forward -------------------------------------------------------------------------------

// Errors of a block's chosen levels, in units of their pivots, each made good behind it.
template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_APART void ScalarSearch<kBlock, kBook, kRows, kSlots>::set_errors(int b, int row) {
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

template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_APART void ScalarSearch<kBlock, kBook, kRows, kSlots>::feed_block(int b) {
    const int first = b * kBlock, radius = job_.scale_radius;
    const bool both_signs = !format_.has_minimum;
    const float* root = basis_.root + int64_t{first} * n_;
    block_.run([&](int thread) {
        for (int i = thread; i < kBlock * kBlock; i += block_.size()) {
            memory_.root[i] = root[int64_t{i / kBlock} * n_ + first + i % kBlock];
        }
        if (thread < kBlock) {
            memory_.pivots[thread] = 1.0f / root[int64_t{thread} * n_ + first + thread];
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
        level(row, first + j) = found;
    });
    for_rows(1, [&](int, int row) {
        take(b, row, memory_.chosen[row], radius, both_signs);
        set_errors(b, row);
    });
    subtract(root, first + kBlock);
}

}  // namespace apex::cuda
