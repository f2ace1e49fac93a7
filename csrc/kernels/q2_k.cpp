// Q2_K: sixteen sub-blocks of 16 weights, each with a 4-bit scale and a 4-bit minimum.
// Scalar twins: quantize_row_q2_K_impl (with a matrix), quantize_row_q2_K_ref (without).
#include "families.h"
#include "ggml_blocks.h"
#include "packing.h"
#include "search_positive_scale.h"
#include "search_scale_min.h"

namespace apex::kernels::APEX_ISA {

namespace {

constexpr int kSubBlocks = 16;
constexpr int kLength = 16;
constexpr int kMaxLevel = 3;

struct Fields {
    I32 scales[kSubBlocks];  // scale in the low nibble, minimum in the high one
    I32 d, dmin;             // fp16 bits
};

void search_with_matrix(const float* x, const float* imatrix, ScaleMin* found, Fields* f) {
    alignas(64) float w[kLength * kLanes];
    alignas(64) float scales[kSubBlocks * kLanes];
    alignas(64) float mins[kSubBlocks * kLanes];
    alignas(64) float sums[kSubBlocks * kLanes];
    alignas(64) int32_t scale_levels[kSubBlocks * kLanes];
    alignas(64) int32_t min_levels[kSubBlocks * kLanes];
    const F32 sigma2 = sum_of_squares(x, kSuperBlock) / F32(256.0f);
    for (int j = 0; j < kSubBlocks; ++j) {
        const float* xj = x + j * kLength * kLanes;
        importance_weights(xj, imatrix + j * kLength * kLanes, sigma2, kLength, w);
        store(sums + j * kLanes, serial_sum(w, kLength));
        found[j] = search_scale_min<kLength, false>(xj, w, kMaxLevel, {-0.9f, 0.05f, 36});
        store(scales + j * kLanes, found[j].scale);
        store(mins + j * kLanes, found[j].the_min);
    }
    f->d = to_half(search_positive_scale<kSubBlocks>(scales, sums, 15, scale_levels));
    f->dmin = to_half(search_positive_scale<kSubBlocks>(mins, sums, 15, min_levels));
    for (int j = 0; j < kSubBlocks; ++j) {
        f->scales[j] = load(scale_levels + j * kLanes) | (load(min_levels + j * kLanes) << 4);
    }
}

void search_without_matrix(const float* x, ScaleMin* found, Fields* f) {
    alignas(64) float w[kLength * kLanes];
    const F32 zero = 0.0f;
    const F32 top = 15.0f;
    F32 max_scale = zero;
    F32 max_min = zero;
    for (int j = 0; j < kSubBlocks; ++j) {
        const float* xj = x + j * kLength * kLanes;
        for (int i = 0; i < kLength; ++i) store(w + i * kLanes, abs(load(xj + i * kLanes)));
        found[j] = search_scale_min<kLength, true>(xj, w, kMaxLevel, {-0.5f, 0.1f, 15});
        max_scale = max(found[j].scale, max_scale);
        max_min = max(found[j].the_min, max_min);
    }
    const Mask has_scale = max_scale > zero;
    const Mask has_min = max_min > zero;
    const F32 inv_scale = top / max_scale;
    const F32 inv_min = top / max_min;
    for (int j = 0; j < kSubBlocks; ++j) {
        const I32 ls = nearest_int(inv_scale * found[j].scale);
        const I32 lm = nearest_int(inv_min * found[j].the_min) << 4;
        f->scales[j] = select(has_scale, ls, I32(0)) | select(has_min, lm, I32(0));
    }
    f->d = to_half(select(has_scale, max_scale / top, zero));
    f->dmin = to_half(select(has_min, max_min / top, zero));
}

// Levels from the scales as a reader will see them. A sub-block whose scale is zero keeps the
// levels of the search.
void requantize(const float* x, const ScaleMin* found, const Fields& f, int32_t* levels) {
    const F32 d_block = float_from_half(f.d);
    const F32 min_block = float_from_half(f.dmin);
    for (int j = 0; j < kSubBlocks; ++j) {
        const I32 sc = f.scales[j] & I32(0xff);
        const F32 d = d_block * to_float(sc & I32(0xF));
        const F32 dm = min_block * to_float(sc >> 4);
        const Mask keep = d == F32(0.0f);
        const bool keep_any = any(keep);
        for (int i = 0; i < kLength; ++i) {
            const int at = (j * kLength + i) * kLanes;
            const F32 xi = load(x + at);
            I32 l = clamp(nearest_int((xi + dm) / d), 0, kMaxLevel);
            if (keep_any) l = select(keep, found[j].level(xi, kMaxLevel), l);
            store(levels + at, l);
        }
    }
}

template <bool WithMatrix>
void quantize(const float* src, void* dst, int64_t nrows, int64_t n_per_row, const float* imatrix) {
    constexpr int kWords = sizeof(block_q2_K) / 4;
    const auto quantize_batch = [](const Batch<kSuperBlock, block_q2_K>& batch) {
        alignas(64) float x[kSuperBlock * kLanes];
        alignas(64) int32_t levels[kSuperBlock * kLanes];
        alignas(64) int32_t words[kWords * kLanes];
        ScaleMin found[kSubBlocks];
        Fields f;
        batch.load_x(x);
        if (WithMatrix) {
            alignas(64) float qw[kSuperBlock * kLanes];
            batch.load_imatrix(qw);
            search_with_matrix(x, qw, found, &f);
        } else {
            search_without_matrix(x, found, &f);
        }
        requantize(x, found, f, levels);
        for (int w = 0; w < 4; ++w) {
            store(words + w * kLanes,
                  word_of([&](int b) { return f.scales[4 * w + b] & I32(0xff); }));
        }
        pack_two_bits(levels, words + 4 * kLanes);
        store(words + 20 * kLanes, f.d | (f.dmin << 16));
        for (int lane = 0; lane < batch.count; ++lane) {
            store_words(words, kWords, lane, batch.out[lane]);
        }
    };
    for_each_batch<kSuperBlock, block_q2_K>(src, dst, nrows, n_per_row, imatrix, quantize_batch);
}

}  // namespace

QuantizeRows q2_k(bool with_imatrix) {
    return with_imatrix ? quantize<true> : quantize<false>;
}

}  // namespace apex::kernels::APEX_ISA
