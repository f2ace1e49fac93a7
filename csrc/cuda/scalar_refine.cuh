// The second half of the search for scalar formats: the gradient, blocks solved anew, scales
// refitted.
#pragma once

#include "cuda/scalar_search.cuh"

namespace apex::cuda {

// --- the gradient -------------------------------------------------------------------------------

// sums += H[:, first + 4 i] * value(row, first + 4 i), i below count.
template <int kBlock, bool kBook, int kRows, int kSlots>
template <typename Value>
APEX_BLOCK void ScalarSearch<kBlock, kBook, kRows, kSlots>::accumulate_strided(
    int first, int count, const Value& value, Block::PerThread<Sums>& sums) {
    for (int begin = 0; begin < count; begin += kStaged) {
        const int n = count - begin < kStaged ? count - begin : kStaged;
        for_rows(n, [&](int i, int row) {
            memory_.staged[i * kRows + row] = value(row, first + 4 * (begin + i));
        });
        const float* columns = basis_.moment + int64_t{first + 4 * begin} * n_;
        block_.run([&](int thread) {
            accumulate<true>(thread, columns, int64_t{4} * n_, memory_.staged.get(), n, 0,
                             sums[thread]);
        });
    }
}

// product(row, column) = H values, over `count` columns from `first` on: every fourth is added by
// itself, then (0 + 1) + (2 + 3).
template <int kBlock, bool kBook, int kRows, int kSlots>
template <typename Values, typename Product>
APEX_APART void ScalarSearch<kBlock, kBook, kRows, kSlots>::multiply(int first, int count,
                                                                     const Values& values,
                                                                     const Product& product) {
    Block::PerThread<Sums> sums(block_);
    for (int fourth = 0; fourth < 4; ++fourth) {
        block_.run([&](int thread) { sums[thread] = Sums{}; });
        accumulate_strided(first + fourth, count / 4, values, sums);
        block_.run([&](int thread) {
            for_slots(thread, [&](int slot, int row, int column) {
                const float sum = sums[thread].of[slot][row];
                float& done = product(row, column);
                float& parked = parked_[row * n_ + column];
                if (fourth == 0) done = sum;
                if (fourth == 1) done = done + sum;
                if (fourth == 2) parked = sum;
                if (fourth == 3) done = done + (parked + sum);
            });
        });
    }
}

// Of the present error: H (weights - restored).
template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_APART void ScalarSearch<kBlock, kBook, kRows, kSlots>::set_gradient() {
    multiply(
        0, n_,
        [&](int row, int column) {
            return job_.weights[int64_t{row_of(row)} * n_ + column] - restored(row, column);
        },
        [&](int row, int column) -> float& { return work(row, column); });
}

// --- refining -----------------------------------------------------------------------------------

// What a block's columns should be while all others stay, and what they are.
template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_APART void ScalarSearch<kBlock, kBook, kRows, kSlots>::set_targets(int b) {
    const int first = b * kBlock;
    block_.run([&](int thread) {
        const int64_t at = int64_t{b} * kBlock * kBlock;
        for (int i = thread; i < kBlock * kBlock; i += block_.size()) {
            memory_.root[i] = basis_.block_root[at + i];
            memory_.inverse[i] = basis_.block_inverse[at + i];
            memory_.own[i] = basis_.moment[int64_t{first + i / kBlock} * n_ + first + i % kBlock];
        }
        for (int i = thread; i < kBlock; i += block_.size()) {
            memory_.pivots[i] = 1.0f / basis_.block_root[at + i * (kBlock + 1)];
            memory_.reciprocals[i] = 1.0f / basis_.moment[int64_t{first + i} * (n_ + 1)];
        }
    });
    for_rows(kBlock, [&](int i, int row) {
        float step = 0.0f;
        for (int j = 0; j < kBlock; ++j) {
            step += memory_.inverse[i * kBlock + j] * work(row, first + j);
        }
        const float now = restored(row, first + i);
        memory_.before[i * kRows + row] = now;
        memory_.target[i * kRows + row] = now + step;
        memory_.steps[i * kRows + row] = step;
    });
}

// Better levels one by one, the rest of the block as it is.
template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_APART void ScalarSearch<kBlock, kBook, kRows, kSlots>::refine_levels(int b, int row) {
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

// A trial that leaves less than the block's present cost, or -1.
template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_BLOCK void ScalarSearch<kBlock, kBook, kRows, kSlots>::choose_better(int b, int row,
                                                                          int radius) {
    float cost = 0.0f;
    for (int i = 0; i < kBlock; ++i) {
        cost += memory_.steps[i * kRows + row] * work(row, b * kBlock + i);
    }
    const int chosen = least_cost(memory_.costs.get() + row, kRows, n_trials(radius, false),
                                  cost * kWorthwhile, -1);
    memory_.chosen[row] = chosen;
    if (chosen >= 0) take(b, row, chosen, radius, false);
    memory_.changed[0] = 0;
}

// Another scale, minimum and levels for a block while all others stay.
template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_APART bool ScalarSearch<kBlock, kBook, kRows, kSlots>::refine_block(int b) {
    const int first = b * kBlock, radius = job_.refine_radius;
    set_targets(b);
    run_trials(b, radius, false, [&](int row, float (&values)[kBlock]) {
        APEX_UNROLL
        for (int j = 0; j < kBlock; ++j) values[j] = memory_.target[j * kRows + row];
    });
    for_rows(1, [&](int, int row) { choose_better(b, row, radius); });
    for_rows(kBlock, [&](int i, int row) {
        const int chosen = memory_.chosen[row];
        const float found =
            chosen < 0 ? level(row, first + i) : memory_.codes[(chosen * kBlock + i) * kRows + row];
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
        level(row, first + i) = memory_.chosen_levels[i * kRows + row];
        if (change != 0.0f) memory_.changed[0] = 1;
    });
    if (memory_.changed[0] == 0) return false;
    subtract(basis_.moment + int64_t{first} * n_, 0);
    for_rows(kBlock,
             [&](int j, int row) { work(row, first + j) = memory_.local[j * kRows + row]; });
    return true;
}

// A row's d and dm, from what a super-block's levels and minima give.
template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_BLOCK void ScalarSearch<kBlock, kBook, kRows, kSlots>::fit_row(int super, int row) {
    const int width = format_.super_block(), first = super * width;
    if (row == 0) memory_.changed[0] = 0;
    float aa = 0, ab = 0, bb = 0, ga = 0, gb = 0;
    for (int i = 0; i < width; ++i) {
        const int at = i * kRows + row;
        const float a = memory_.fit_levels[at], gradient = work(row, first + i);
        aa += a * memory_.fit_product[at];
        ga += a * gradient;
        if (!format_.has_minimum) continue;
        const float minimum = memory_.fit_minima[at];
        ab += a * memory_.fit_minima_product[at];
        bb += minimum * memory_.fit_minima_product[at];
        gb += minimum * gradient;
    }
    const Fit fit =
        fit_scales(format_.has_minimum, d(super, row), dm(super, row), {aa, ab, bb, ga, gb});
    memory_.fit_steps[row] = fit.x;
    memory_.fit_steps[kRows + row] = fit.y;
    memory_.chosen[row] = fit.better ? 1 : 0;
    d(super, row) = fit.d;
    dm(super, row) = fit.dm;
}

// d and dm of a super-block by least squares, all integers as they are; kept where that helps.
template <int kBlock, bool kBook, int kRows, int kSlots>
APEX_APART bool ScalarSearch<kBlock, kBook, kRows, kSlots>::refit(int super) {
    const int width = format_.super_block(), first = super * width;
    multiply(
        first, width,
        [&](int row, int column) { return s(column / kBlock, row) * level(row, column); },
        [&](int row, int column) -> float& { return product_[row * n_ + column]; });
    if (format_.has_minimum) {
        multiply(
            first, width, [&](int row, int column) { return -m(column / kBlock, row); },
            [&](int row, int column) -> float& { return minima_product_[row * n_ + column]; });
    }
    for_rows(width, [&](int i, int row) {
        const int column = first + i, at = i * kRows + row;
        memory_.fit_levels[at] = s(column / kBlock, row) * level(row, column);
        memory_.fit_product[at] = product_[row * n_ + column];
        if (!format_.has_minimum) return;
        memory_.fit_minima[at] = -m(column / kBlock, row);
        memory_.fit_minima_product[at] = minima_product_[row * n_ + column];
    });
    for_rows(1, [&](int, int row) { fit_row(super, row); });
    for_rows(1, [&](int, int row) {
        if (memory_.chosen[row] != 0) memory_.changed[0] = 1;
    });
    if (memory_.changed[0] == 0) return false;
    block_.run([&](int thread) {
        for_slots(thread, [&](int, int row, int column) {
            float gradient = work(row, column);
            gradient -= memory_.fit_steps[row] * product_[row * n_ + column];
            if (format_.has_minimum) {
                gradient -= memory_.fit_steps[kRows + row] * minima_product_[row * n_ + column];
            }
            work(row, column) = gradient;
        });
    });
    return true;
}

}  // namespace apex::cuda
