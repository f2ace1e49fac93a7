// How a super-block is quantized by a few threads, one per sub-block, and the same on a CPU.
//
// ggml's sums run strictly left to right, so a thread carries a whole sub-block through the scalar
// algorithm. A type supplies the steps between which the threads of a super-block wait for each
// other:
//
//   find     the search in the thread's own sub-block; leaves its scale in Scratch
//   combine  from the scales of all sub-blocks to the block's d; every thread looks at all of them
//   choose   the final levels of the sub-block, as a reader will see the scales
//   pack     the thread's share of the block's bytes
//
// and: Block, kSubBlocks, kLength (weights per sub-block), kLaneFloats (floats of Strided memory a
// thread needs), kSums (find wants the sum of squares of the super-block), kFits (add_fit is called
// between combine and choose), kCodebook (tables.codebook is read), Thread (members x, overflow)
// and Scratch (shared by the threads). Sums over the whole super-block are handed from thread to
// thread, which keeps their order.
#pragma once

#include "cuda/codebook_iq4.cuh"
#include "cuda/grid.cuh"
#include "cuda/portable.cuh"

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

namespace apex::cuda {

// Tables that stay the same for all blocks.
struct Tables {
    Grid grid;
    const CodebookCells* codebook;
};

// Two running sums over a super-block, for types with kFits.
struct FitSums {
    float qx = 0.0f;
    float q2 = 0.0f;
};

// Without a matrix imatrix is null. Overflow in a row is noted in overflowed[row], whose bytes are
// then void.
template <typename Type>
void quantize_block_on_host(const float* src, const float* imatrix, const Tables& tables,
                            typename Type::Block* out, bool* overflowed) {
    constexpr int kThreads = Type::kSubBlocks;
    static thread_local float lanes[kThreads][Type::kLaneFloats + 1];
    static thread_local typename Type::Thread threads[kThreads];
    static thread_local typename Type::Scratch scratch;
    float sum = 0.0f;
    for (int j = 0; j < kThreads; ++j) {
        threads[j] = {};
        std::memcpy(threads[j].x, src + j * Type::kLength, sizeof(threads[j].x));
        if (Type::kSums) sum = add_squares<Type::kLength>(sum, threads[j].x);
    }
    for (int j = 0; j < kThreads; ++j) {
        const float* importance = imatrix ? imatrix + j * Type::kLength : nullptr;
        Type::find(threads[j], j, importance, sum, Strided<1>{lanes[j]}, tables, scratch);
    }
    for (int j = 0; j < kThreads; ++j) Type::combine(threads[j], j, scratch);
    FitSums fit;
    if constexpr (Type::kFits) {
        for (int j = 0; j < kThreads; ++j) fit = Type::add_fit(threads[j], fit);
    }
    for (int j = 0; j < kThreads; ++j) Type::choose(threads[j], j, fit, tables, scratch);
    for (int j = 0; j < kThreads; ++j) {
        Type::pack(j, scratch, tables, out);
        if (threads[j].overflow) *overflowed = true;
    }
}

// The host's twin of the device's kernels.
template <typename Type>
void quantize_rows_on_host(const float* src, void* dst, int64_t n_rows, int64_t n_per_row,
                           const float* imatrix, const Tables& tables, uint8_t* overflowed) {
    constexpr int kBlock = Type::kSubBlocks * Type::kLength;
    auto* out = static_cast<typename Type::Block*>(dst);
    for (int64_t row = 0; row < n_rows; ++row) {
        bool overflow = false;
        for (int64_t at = 0; at < n_per_row; at += kBlock) {
            quantize_block_on_host<Type>(src + row * n_per_row + at,
                                         imatrix ? imatrix + at : nullptr, tables, out++,
                                         &overflow);
        }
        overflowed[row] = overflow;
    }
}

}  // namespace apex::cuda
