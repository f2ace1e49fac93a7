// What a block of threads that searches is told, and what it keeps in shared memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/portable.cuh"
#include "cuda/thread_block.cuh"
#include "moments/scalar_format.h"

namespace apex::cuda {

// What rows are quantized under (moments/basis.h), in the GPU's memory.
struct SearchBasis {
    const float* moment;         // n x n, symmetric
    const float* root;           // n x n, L^T: upper triangular
    const float* block_root;     // of each block along the diagonal, upper triangular
    const float* block_inverse;  // of each block
};

// Rows quantized under each of some bases, which lie one behind the other.
struct SearchJob {
    ScalarFormat format;
    int n, n_rows;
    const float* weights;
    const uint8_t* start;  // rows as ggml wrote them, basis_bytes from one basis to the next
    uint8_t* result;       // as many bytes
    size_t basis_bytes, row_bytes, block_bytes;
    SearchBasis bases;
    float* scratch;  // kScratchArrays x rows x n of every block of threads
    int scale_radius, refine_radius, max_passes;

    APEX_BLOCK SearchBasis basis(int i, int block) const {
        const int64_t at = int64_t{i} * n * n, in_blocks = int64_t{i} * n * block;
        return {bases.moment + at, bases.root + at, bases.block_root + in_blocks,
                bases.block_inverse + in_blocks};
    }
    // Scales that are tried for a block, at most.
    APEX_HD int max_trials() const {
        const int steps = 2 * (scale_radius > refine_radius ? scale_radius : refine_radius) + 1;
        if (!format.has_minimum) return 2 * steps;
        return format.has_integers ? steps * steps : steps;
    }
};

inline constexpr int kScratchArrays = 4;  // levels, two products, and what is parked
inline constexpr int kStaged = 64;        // values of each row that are added at a time

// Of `rows` rows. What blocks need and what super-blocks need is not needed at once.
struct SearchMemory {
    using Floats = Shared<float>;
    Floats work, s, m, d, dm;
    Shared<int> chosen, changed;
    Floats fit_steps;  // x and y of each row
    // of a block; columns x rows where a row has its own
    Floats root, inverse, own, pivots, reciprocals;
    Floats target, before, now, change, local, steps, chosen_levels, costs;
    Shared<int8_t> codes;
    // of a super-block
    Floats staged, fit_levels, fit_minima, fit_product, fit_minima_product;
    int n_floats;

    APEX_HD SearchMemory(const SearchJob& job, int block, int rows, void* of_block) : n_floats(0) {
        const int width = job.format.super_block(), n_supers = job.n / width;
        work = next(of_block, rows * (job.n + 1));
        s = next(of_block, job.n / block * rows);
        m = next(of_block, job.n / block * rows);
        d = next(of_block, n_supers * rows);
        dm = next(of_block, n_supers * rows);
        chosen = next<int>(of_block, rows);
        changed = next<int>(of_block, 1);
        fit_steps = next(of_block, 2 * rows);
        const int kept = n_floats;
        root = next(of_block, block * block);
        inverse = next(of_block, block * block);
        own = next(of_block, block * block);
        pivots = next(of_block, block);
        reciprocals = next(of_block, block);
        target = next(of_block, block * rows);
        before = next(of_block, block * rows);
        now = next(of_block, block * rows);
        change = next(of_block, block * rows);
        local = next(of_block, block * rows);
        steps = next(of_block, block * rows);
        chosen_levels = next(of_block, block * rows);
        costs = next(of_block, job.max_trials() * rows);
        codes = next<int8_t>(of_block, (job.max_trials() * block * rows + 3) / 4);
        const int of_blocks = n_floats;
        n_floats = kept;
        staged = next(of_block, kStaged * rows);
        fit_levels = next(of_block, width * rows);
        fit_minima = next(of_block, width * rows);
        fit_product = next(of_block, width * rows);
        fit_minima_product = next(of_block, width * rows);
        if (n_floats < of_blocks) n_floats = of_blocks;
    }

    // At an address divisible by 16.
    template <typename T = float>
    APEX_HD Shared<T> next(void* of_block, int count) {
        const int at = n_floats;
        n_floats += (count + 3) / 4 * 4;
        return Shared<T>::at(of_block, at);
    }
};

// kCount values that lie side by side, at an address divisible by 16.
template <int kCount>
APEX_BLOCK void load_values(const float* at, float (&values)[kCount]) {
#if defined(__CUDA_ARCH__)
    static_assert(kCount % 4 == 0);
    APEX_UNROLL
    for (int i = 0; i < kCount; i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(at + i);
        values[i] = four.x;
        values[i + 1] = four.y;
        values[i + 2] = four.z;
        values[i + 3] = four.w;
    }
#else
    for (int i = 0; i < kCount; ++i) values[i] = at[i];
#endif
}

}  // namespace apex::cuda
