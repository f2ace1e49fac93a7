// What a block of threads that searches a panel keeps in shared memory.
#pragma once

#include "cuda/search_job.cuh"

namespace apex::cuda {

// Of kGroupRows rows, columns x rows unless it says otherwise. What blocks need and what
// super-blocks need is not needed at once.
struct PanelMemory {
    using Floats = Shared<float>;
    static constexpr int kRowStride = kPanel + 1;  // of work and products, row after row
    Floats work, s, m, d, dm;
    Shared<int8_t> levels;
    Shared<int> chosen, changed;
    // of a block; without rows up to reciprocals
    Floats root, inverse, own, pivots, reciprocals;
    Floats target, before, now, change, local, steps, chosen_levels, costs;
    Shared<int8_t> codes;
    // of a super-block
    Floats staged, product, minima_product, fit_sums;
    int n_floats;

    APEX_HD PanelMemory(const SearchJob& job, int block, void* of_block) : n_floats(0) {
        constexpr int kRows = kGroupRows;
        work = next(of_block, kRows * kRowStride);
        s = next(of_block, kPanel / block * kRows);
        m = next(of_block, kPanel / block * kRows);
        d = next(of_block, kPanelSupers * kRows);
        dm = next(of_block, kPanelSupers * kRows);
        levels = next<int8_t>(of_block, kPanel * kRows / 4);
        chosen = next<int>(of_block, kRows);
        changed = next<int>(of_block, 1);
        const int kept = n_floats;
        root = next(of_block, block * block);
        inverse = next(of_block, block * block);
        own = next(of_block, block * block);
        pivots = next(of_block, block);
        reciprocals = next(of_block, block);
        target = next(of_block, block * kRows);
        before = next(of_block, block * kRows);
        now = next(of_block, block * kRows);
        change = next(of_block, block * kRows);
        local = next(of_block, block * kRows);
        steps = next(of_block, block * kRows);
        chosen_levels = next(of_block, block * kRows);
        costs = next(of_block, job.max_trials() * kRows);
        codes = next<int8_t>(of_block, (job.max_trials() * block * kRows + 3) / 4);
        const int of_blocks = n_floats;
        n_floats = kept;
        staged = next(of_block, job.format.super_block() * kRows);
        product = next(of_block, kRows * kRowStride);
        minima_product = next(of_block, job.format.has_minimum ? kRows * kRowStride : 0);
        fit_sums = next(of_block, kFitSums * kRows);
        if (n_floats < of_blocks) n_floats = of_blocks;
    }

    static constexpr int kFitSums = 5;

  private:
    // At an address divisible by 16.
    template <typename T = float>
    APEX_HD Shared<T> next(void* of_block, int count) {
        const int at = n_floats;
        n_floats += (count + 3) / 4 * 4;
        return Shared<T>::at(of_block, at);
    }
};

}  // namespace apex::cuda
