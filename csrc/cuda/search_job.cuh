// What a search with error feedback is told, and what it keeps in the GPU's memory.
//
// A row is searched panel by panel: kPanel columns, which a block of threads has in shared memory
// for kGroupRows rows. What a panel changes reaches the columns outside it afterwards, in products
// of many rows at once (panel_products.cuh). Every element is a number to which the CPU's products
// are added one after the other in the CPU's order: when that is done does not matter to its bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/portable.cuh"
#include "cuda/thread_block.cuh"
#include "moments/scalar_format.h"

namespace apex::cuda {

inline constexpr int kPanel = 256;      // columns: whole super-blocks of every format
inline constexpr int kPanelSupers = 8;  // of a panel, at most
inline constexpr int kGroupRows = 16;   // rows of a block of threads that searches
inline constexpr int kTileRows = 64;    // of a block of threads that multiplies
inline constexpr int kTileColumns = 128;
inline constexpr int kSearchThreads = 256;
static_assert(kPanel == kSearchThreads);  // a column a thread
static_assert(kPanel % kTileColumns == 0 && kTileRows % kGroupRows == 0);

APEX_HD int parts_of(int count, int size) {
    return (count + size - 1) / size;
}

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
    float* scratch;  // search_floats() of every basis
    int scale_radius, refine_radius, max_passes;

    APEX_HD int n_groups() const { return parts_of(n_rows, kGroupRows); }
    APEX_HD int n_row_tiles() const { return parts_of(n_rows, kTileRows); }
    APEX_HD int n_panels() const { return parts_of(n, kPanel); }
    APEX_HD int end_of(int panel) const {
        return (panel + 1) * kPanel < n ? (panel + 1) * kPanel : n;
    }
    APEX_BLOCK SearchBasis basis(int i) const {
        const int64_t at = int64_t{i} * n * n, in_blocks = int64_t{i} * n * format.block;
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

// Where a block of threads is.
struct SearchPlace {
    int x, y;  // of the launch's blocks
    int basis, panel, pass;
};

// What is known of the rows under one basis. Rows lie beside each other, `stride` of them, but for
// work, whose rows are of n columns.
struct SearchState {
    int64_t stride, n_floats;
    float* work;    // feeding: what columns should be; then the gradient
    float* change;  // of a panel's columns, in units of their pivots when feeding; or all errors
    float *s, *m, *d, *dm;
    float* steps;  // what a panel's d, then its dm gained; kPanelSupers x rows each
    int8_t* levels;
    int8_t* touched;  // by column of a panel and group of rows: does one of them change?
    int* changed;     // by pass and tile of rows
    int* n_better;    // by panel and super-block: rows whose d or dm changed
    int* better;      // these rows, of a panel's super-blocks

    APEX_HD SearchState(const SearchJob& job, float* scratch) : n_floats(0) {
        const ScalarFormat& format = job.format;
        stride = int64_t{job.n_groups()} * kGroupRows;
        work = next(scratch, stride * job.n);
        change = next(scratch, stride * job.n);
        s = next(scratch, stride * (job.n / format.block));
        m = next(scratch, stride * (job.n / format.block));
        d = next(scratch, stride * (job.n / format.super_block()));
        dm = next(scratch, stride * (job.n / format.super_block()));
        steps = next(scratch, stride * 2 * kPanelSupers);
        levels = reinterpret_cast<int8_t*>(next(scratch, (stride * job.n + 3) / 4));
        touched =
            reinterpret_cast<int8_t*>(next(scratch, (int64_t{kPanel} * job.n_groups() + 3) / 4));
        changed =
            reinterpret_cast<int*>(next(scratch, int64_t{job.max_passes} * job.n_row_tiles()));
        n_better = reinterpret_cast<int*>(next(scratch, int64_t{job.n_panels()} * kPanelSupers));
        better = reinterpret_cast<int*>(next(scratch, kPanelSupers * stride));
    }

    APEX_HD bool is_active(const SearchJob& job, int pass, int row_tile) const {
        return pass == 0 || changed[(pass - 1) * job.n_row_tiles() + row_tile] != 0;
    }

  private:
    // At an address divisible by 16.
    APEX_HD float* next(float* scratch, int64_t count) {
        float* at = scratch == nullptr ? nullptr : scratch + n_floats;
        n_floats += (count + 3) / 4 * 4;
        return at;
    }
};

// Floats of scratch for each basis.
APEX_HD int64_t search_floats(const SearchJob& job) {
    return SearchState(job, nullptr).n_floats;
}

APEX_HD SearchState state_of(const SearchJob& job, int basis) {
    return SearchState(job, job.scratch + basis * search_floats(job));
}

// What the number was, which is then one more. Threads get different numbers, in any order.
APEX_BLOCK int take_number(int* number) {
#if defined(__CUDA_ARCH__)
    return atomicAdd(number, 1);
#else
    return (*number)++;
#endif
}

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
