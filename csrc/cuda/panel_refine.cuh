// The second half of the search: the errors that the gradient is made of, blocks solved anew,
// scales refitted.
#pragma once

#include "cuda/panel_search.cuh"

namespace apex::cuda {

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::differ() const {
    load_scales();
    load_levels();
    for_rows(width_, [&](int column, int row) {
        const float weight = job_.weights[int64_t{row_of(row)} * job_.n + begin_ + column];
        state_.change[at(begin_ + column, row)] = weight - restored(row, column);
    });
}

// --- blocks -------------------------------------------------------------------------------------

// What a block's columns should be while all others stay, and what they are.
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::set_targets(int b) const {
    const int first = b * kBlock;
    block_.run([&](int thread) {
        const int64_t at = int64_t{first_block_ + b} * kBlock * kBlock;
        const float* moment = basis_.moment + int64_t{begin_ + first} * job_.n + begin_ + first;
        for (int i = thread; i < kBlock * kBlock; i += kSearchThreads) {
            memory_.root[i] = basis_.block_root[at + i];
            memory_.inverse[i] = basis_.block_inverse[at + i];
            memory_.own[i] = moment[int64_t{i / kBlock} * job_.n + i % kBlock];
        }
        for (int i = thread; i < kBlock; i += kSearchThreads) {
            memory_.pivots[i] = 1.0f / basis_.block_root[at + i * (kBlock + 1)];
            memory_.reciprocals[i] = 1.0f / moment[int64_t{i} * (job_.n + 1)];
        }
    });
    for_rows(kBlock, [&](int i, int row) {
        float step = 0.0f;
        APEX_UNROLL
        for (int j = 0; j < kBlock; ++j) {
            step += memory_.inverse[i * kBlock + j] * work(row, first + j);
        }
        const float now = restored(row, first + i);
        memory_.before[i * kRows + row] = now;
        memory_.target[i * kRows + row] = now + step;
        memory_.steps[i * kRows + row] = step;
    });
}

// A trial that leaves less than the block's present cost, or -1.
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::choose_better(int b, int row, int radius) const {
    float cost = 0.0f;
    APEX_UNROLL
    for (int i = 0; i < kBlock; ++i) {
        cost += memory_.steps[i * kRows + row] * work(row, b * kBlock + i);
    }
    const int chosen = least_cost(memory_.costs.get() + row, kRows, n_trials(radius, false),
                                  cost * kWorthwhile, -1);
    memory_.chosen[row] = chosen;
    if (chosen >= 0) take(b, row, chosen, radius, false);
    memory_.changed[0] = 0;
}

// Better levels one by one, the rest of the block as it is.
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::refine_levels(int b, int row) const {
    const Scale scale = present(b, row);
    const float step = scale.scale(), shift = scale.minimum(), inverse_step = inverse(step);
    float gradient[kBlock];
    APEX_UNROLL
    for (int j = 0; j < kBlock; ++j) gradient[j] = memory_.local[j * kRows + row];
    APEX_UNROLL
    for (int i = 0; i < kBlock; ++i) {
        const float old = memory_.now[i * kRows + row];
        const float present_level = memory_.chosen_levels[i * kRows + row];
        const float wanted = old + gradient[i] * memory_.reciprocals[i];
        const float nearest = nearest_level<kBook>(format_, (wanted + shift) * inverse_step);
        const float better = step == 0.0f ? present_level : nearest;
        const float change = step * (better - present_level);
        if (change == 0.0f) continue;
        memory_.chosen_levels[i * kRows + row] = better;
        memory_.now[i * kRows + row] = old + change;
        APEX_UNROLL
        for (int j = 0; j < kBlock; ++j) gradient[j] -= change * memory_.own[i * kBlock + j];
    }
    APEX_UNROLL
    for (int j = 0; j < kBlock; ++j) memory_.local[j * kRows + row] = gradient[j];
}

// Another scale, minimum and levels for a block while all others stay.
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::refine_block(int b) const {
    const int first = b * kBlock, radius = job_.refine_radius;
    set_targets(b);
    run_trials(b, radius, false, [&](int row, float (&values)[kBlock]) {
        APEX_UNROLL
        for (int j = 0; j < kBlock; ++j) values[j] = memory_.target[j * kRows + row];
    });
    for_rows(1, [&](int, int row) { choose_better(b, row, radius); });
    for_rows(kBlock, [&](int i, int row) {
        const int chosen = memory_.chosen[row];
        float found = level(row, first + i);
        if (chosen >= 0) found = memory_.codes[(chosen * kBlock + i) * kRows + row];
        const Scale scale = present(b, row);
        const float now = scale.scale() * found - scale.minimum();
        memory_.chosen_levels[i * kRows + row] = found;
        memory_.now[i * kRows + row] = now;
        memory_.change[i * kRows + row] = now - memory_.before[i * kRows + row];
    });
    for_rows(kBlock, [&](int j, int row) {
        float gradient = work(row, first + j);
        for (int i = 0; i < kBlock; ++i) {
            const float moved = memory_.change[i * kRows + row];
            if (moved != 0.0f) gradient -= moved * memory_.own[i * kBlock + j];
        }
        memory_.local[j * kRows + row] = gradient;
    });
    for_rows(1, [&](int, int row) { refine_levels(b, row); });
    for_rows(kBlock, [&](int i, int row) {
        const float change = memory_.now[i * kRows + row] - memory_.before[i * kRows + row];
        memory_.change[i * kRows + row] = change;
        set_level(row, first + i, memory_.chosen_levels[i * kRows + row]);
        if (change != 0.0f) memory_.changed[0] = 1;
    });
    store_change(b);
    note_touched(b);
    if (memory_.changed[0] == 0) return;
    note_change();
    subtract(basis_.moment + int64_t{begin_ + first} * job_.n + begin_, 0);
    for_rows(kBlock,
             [&](int j, int row) { work(row, first + j) = memory_.local[j * kRows + row]; });
}

// Which of the block's columns the products have to look at.
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::note_touched(int b) const {
    block_.run([&](int thread) {
        if (thread >= kBlock) return;
        bool touched = false;
        for (int row = 0; row < kRows; ++row) {
            touched |= memory_.change[thread * kRows + row] != 0.0f;
        }
        state_.touched[(b * kBlock + thread) * job_.n_groups() + place_.x] = touched ? 1 : 0;
    });
}

// The next pass looks at these rows again.
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::note_change() const {
    block_.run([&](int thread) {
        const int tile = first_row_ / kTileRows;
        if (thread == 0) state_.changed[place_.pass * job_.n_row_tiles() + tile] = 1;
    });
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::refine() {
    load_scales();
    load_levels();
    load_work();
    for (int b = 0; b < n_blocks_; ++b) refine_block(b);
    store_scales();
    store_levels();
    store_work();
}

// --- super-blocks -------------------------------------------------------------------------------

// product = the moment's rows * memory_.staged, in the panel's columns: every fourth is added by
// itself, then (0 + 1) + (2 + 3).
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::multiply(int super,
                                                     const PanelMemory::Floats& product) const {
    constexpr int kAtOnce = 8;  // super-blocks are of 32 columns at least
    const int first = super * format_.super_block();
    for_columns([&](int column) {
        const float* moment = basis_.moment + int64_t{begin_ + first} * job_.n + begin_ + column;
        float done[kRows], parked[kRows];
        APEX_UNROLL
        for (int fourth = 0; fourth < 4; ++fourth) {
            float sums[kRows] = {};
            APEX_ROLLED
            for (int i = fourth; i < format_.super_block(); i += 4 * kAtOnce) {
                float factors[kAtOnce];
                APEX_UNROLL
                for (int k = 0; k < kAtOnce; ++k) {
                    factors[k] = moment[int64_t{i + 4 * k} * job_.n];
                }
                APEX_UNROLL
                for (int k = 0; k < kAtOnce; ++k) {
                    float values[kRows];
                    load_values(memory_.staged.get() + (i + 4 * k) * kRows, values);
                    APEX_UNROLL
                    for (int row = 0; row < kRows; ++row) sums[row] += factors[k] * values[row];
                }
            }
            APEX_UNROLL
            for (int row = 0; row < kRows; ++row) {
                if (fourth == 0) done[row] = sums[row];
                if (fourth == 1) done[row] = done[row] + sums[row];
                if (fourth == 2) parked[row] = sums[row];
                if (fourth == 3) done[row] = done[row] + (parked[row] + sums[row]);
            }
        }
        APEX_UNROLL
        for (int row = 0; row < kRows; ++row) {
            product[row * PanelMemory::kRowStride + column] = done[row];
        }
    });
}

// Over a super-block, of levels a, minima b, their products and the gradient g: aa, ga, ab, bb, gb.
template <int kBlock, bool kBook>
APEX_BLOCK float PanelSearch<kBlock, kBook>::fit_sum(int super, int which, int row) const {
    const int width = format_.super_block(), first = super * width;
    const PanelMemory::Floats& right = which == 0                 ? memory_.product
                                       : which == 1 || which == 4 ? memory_.work
                                                                  : memory_.minima_product;
    const float* others = right.get() + row * PanelMemory::kRowStride + first;
    const bool of_levels = which < 3;
    float sum = 0.0f;
    for (int block = 0; block < format_.n_blocks; ++block) {
        const int b = first / kBlock + block;
        const float scale = s(b, row), minimum = -m(b, row);
        APEX_UNROLL
        for (int j = 0; j < kBlock; ++j) {
            const int i = block * kBlock + j;
            sum += (of_levels ? scale * level(row, first + i) : minimum) * others[i];
        }
    }
    return sum;
}

// A row's d and dm, from these sums.
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::fit_row(int super, int row) const {
    const auto sum = [&](int which) {
        const bool is_known = which < 2 || format_.has_minimum;
        return is_known ? memory_.fit_sums[which * kRows + row] : 0.0f;
    };
    const FitSums sums{sum(0), sum(2), sum(3), sum(1), sum(4)};
    const Fit fit = fit_scales(format_.has_minimum, d(super, row), dm(super, row), sums);
    state_.steps[at(super, row)] = fit.x;
    state_.steps[at(kPanelSupers + super, row)] = fit.y;
    memory_.fit_sums[row] = fit.x;
    memory_.fit_sums[kRows + row] = fit.y;
    d(super, row) = fit.d;
    dm(super, row) = fit.dm;
    if (!fit.better) return;
    memory_.changed[0] = 1;
    const int number = take_number(state_.n_better + place_.panel * kPanelSupers + super);
    state_.better[super * state_.stride + number] = first_row_ + row;
}

// d and dm of a super-block by least squares, all integers as they are; kept where that helps.
template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::refit_super(int super) const {
    const int width = format_.super_block(), first = super * width;
    for_rows(width, [&](int i, int row) {
        const int column = first + i;
        memory_.staged[i * kRows + row] = s(column / kBlock, row) * level(row, column);
    });
    multiply(super, memory_.product);
    if (format_.has_minimum) {
        for_rows(width, [&](int i, int row) {
            memory_.staged[i * kRows + row] = -m((first + i) / kBlock, row);
        });
        multiply(super, memory_.minima_product);
    }
    for_rows(format_.has_minimum ? PanelMemory::kFitSums : 2, [&](int which, int row) {
        memory_.fit_sums[which * kRows + row] = fit_sum(super, which, row);
        memory_.changed[0] = 0;
    });
    for_rows(1, [&](int, int row) { fit_row(super, row); });
    if (memory_.changed[0] == 0) return;
    note_change();
    for_columns([&](int column) {
        APEX_UNROLL
        for (int row = 0; row < kRows; ++row) {
            const int at = row * PanelMemory::kRowStride + column;
            float gradient = memory_.work[at];
            gradient -= memory_.fit_sums[row] * memory_.product[at];
            if (format_.has_minimum) {
                gradient -= memory_.fit_sums[kRows + row] * memory_.minima_product[at];
            }
            memory_.work[at] = gradient;
        }
    });
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::refit() {
    load_scales();
    load_levels();
    load_work();
    for (int super = 0; super < n_supers_; ++super) refit_super(super);
    store_scales();
    store_work();
}

}  // namespace apex::cuda
