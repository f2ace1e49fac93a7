// Batches of super-blocks, one per lane.
//
// ggml's sums run strictly left to right within a super-block or a sub-block, so they cannot be
// split over lanes. Different super-blocks are independent: each lane carries one of them through
// the scalar algorithm, in the scalar order. A batch is transposed on the way in (weight i of all
// lanes side by side) and its packed words are transposed back on the way out.
#pragma once

#include <cstring>

#include "simd.h"

namespace apex::kernels::APEX_ISA {

inline constexpr int kSuperBlock = 256;  // QK_K

// out[i * kLanes + lane] = rows[lane][i] for i in [0, length), length a multiple of 8.
inline void transpose_rows(const float* const* rows, int length, float* out) {
    for (int i = 0; i < length; i += 8) {
        for (int lane = 0; lane < kLanes; lane += 8) {
            transpose_8x8(rows + lane, i, out + i * kLanes + lane, kLanes);
        }
    }
}

template <int BlockLength, typename Block>
struct Batch {
    int count;                    // lanes in use; the others repeat the last one
    const float* source[kLanes];  // BlockLength floats each
    const float* imatrix[kLanes];
    Block* out[kLanes];

    void load_x(float* out_lanes) const { transpose_rows(source, BlockLength, out_lanes); }
    void load_imatrix(float* out_lanes) const { transpose_rows(imatrix, BlockLength, out_lanes); }
};

// Calls quantize(batch) for all blocks of nrows rows, kLanes at a time. A row's padding lanes cost
// nothing extra: blocks of consecutive rows share batches.
template <int BlockLength, typename Block, typename Quantize>
void for_each_batch(const float* src, void* dst, int64_t nrows, int64_t n_per_row,
                    const float* imatrix, Quantize quantize) {
    const int64_t per_row = n_per_row / BlockLength;
    const int64_t total = nrows * per_row;
    Batch<BlockLength, Block> batch;
    int64_t column = 0;
    for (int64_t first = 0; first < total; first += kLanes) {
        batch.count = static_cast<int>(total - first < kLanes ? total - first : kLanes);
        for (int lane = 0; lane < kLanes; ++lane) {
            if (lane >= batch.count) {
                batch.source[lane] = batch.source[lane - 1];
                batch.imatrix[lane] = batch.imatrix[lane - 1];
                continue;
            }
            batch.source[lane] = src + (first + lane) * BlockLength;
            batch.imatrix[lane] = imatrix ? imatrix + column * BlockLength : nullptr;
            batch.out[lane] = static_cast<Block*>(dst) + first + lane;
            if (++column == per_row) column = 0;
        }
        quantize(batch);
    }
}

// Writes words[w * kLanes + lane], w in [0, nwords), to out + 4 * w of one lane's block.
inline void store_words(const int32_t* words, int nwords, int lane, void* out) {
    auto* bytes = static_cast<uint8_t*>(out);
    for (int w = 0; w < nwords; ++w) {
        std::memcpy(bytes + 4 * w, words + w * kLanes + lane, 4);
    }
}

// The serial sum of squares of a super-block.
inline F32 sum_of_squares(const float* x, int n) {
    F32 sum = 0.0f;
    APEX_UNROLL
    for (int i = 0; i < n; ++i) {
        const F32 v = load(x + i * kLanes);
        sum = sum + v * v;
    }
    return sum;
}

// w = imatrix * sqrt(sigma2 + x * x), the weight of all searches with a matrix (Q6_K excepted).
inline void importance_weights(const float* x, const float* imatrix, F32 sigma2, int n, float* w) {
    APEX_UNROLL
    for (int i = 0; i < n; ++i) {
        const F32 v = load(x + i * kLanes);
        store(w + i * kLanes, load(imatrix + i * kLanes) * sqrt(sigma2 + v * v));
    }
}

// w = x * x, the weight of several searches without a matrix.
inline void squared_weights(const float* x, int n, float* w) {
    APEX_UNROLL
    for (int i = 0; i < n; ++i) {
        const F32 v = load(x + i * kLanes);
        store(w + i * kLanes, v * v);
    }
}

inline F32 serial_sum(const float* w, int n) {
    F32 sum = 0.0f;
    for (int i = 0; i < n; ++i) sum = sum + load(w + i * kLanes);
    return sum;
}

}  // namespace apex::kernels::APEX_ISA
