// IQ4_NL (blocks of 32 weights) and IQ4_XS (super-blocks of eight such blocks with 6-bit scales).
// Scalar twin: quantize_row_iq4_nl_impl.
#include "codebook_iq4.h"
#include "families.h"
#include "ggml_blocks.h"
#include "packing.h"
#include "search_signed_scale.h"

namespace apex::kernels::APEX_ISA {

namespace {

constexpr int kLength = 32;
constexpr int kTries = 7;

// The best scale of 32 weights; 0 if all are (nearly) zero.
F32 search_scale(const float* x, const float* w, const Codebook& codebook) {
    const F32 zero = 0.0f;
    F32 amax;
    const F32 largest = largest_magnitude<kLength>(x, &amax);
    const Mask active = ~(amax < F32(1e-15f));  // GROUP_MAX_EPS
    F32 sumqx, sumq2;
    // Active lanes: |inverse * x| <= 134 (1 + 2^-22), within the codebook's cells.
    const auto sums = [&](F32 inverse) {
        F32 qx = zero, q2 = zero;
        for (int i = 0; i < kLength; ++i) {
            const F32 xi = load(x + i * kLanes);
            const F32 q = codebook.value_in_range(inverse * xi);
            const F32 wq = load(w + i * kLanes) * q;
            qx = qx + wq * xi;
            q2 = q2 + wq * q;
        }
        sumqx = qx;
        sumq2 = q2;
    };
    const float lowest = static_cast<float>(kCodebook[0]);
    sums(F32(1.0f) / (negate(largest) / F32(lowest)));
    F32 d = select(sumq2 > zero, sumqx / sumq2, zero);
    F32 best = d * sumqx;
    for (int itry = -kTries; itry <= kTries; ++itry) {
        sums(F32(static_cast<float>(itry + kCodebook[0])) / largest);
        const Mask better = active & (sumq2 > zero) & (sumqx * sumqx > best * sumq2);
        if (!any(better)) continue;
        const F32 scale = sumqx / sumq2;
        d = select(better, scale, d);
        best = select(better, scale * sumqx, best);
    }
    return select(active, d, zero);
}

template <bool WithMatrix>
void block_weights(const float* x, const float* imatrix, F32 sigma2, float* w) {
    if (WithMatrix) {
        importance_weights(x, imatrix, sigma2, kLength, w);
    } else {
        squared_weights(x, kLength, w);
    }
}

void choose_levels(const float* x, F32 inverse, const Codebook& codebook, int32_t* levels) {
    for (int i = 0; i < kLength; ++i) {
        store(levels + i * kLanes, codebook.index(inverse * load(x + i * kLanes)));
    }
}

// 16 bytes: weights i and i + 16 share byte i.
void pack_nibbles(const int32_t* levels, int32_t* words) {
    for (int w = 0; w < 4; ++w) {
        store(words + w * kLanes, word_of([&](int b) {
                  const int32_t* at = levels + (4 * w + b) * kLanes;
                  return load(at) | (load(at + 16 * kLanes) << 4);
              }));
    }
}

F32 inverse_or_zero(F32 d) {
    return select(d != F32(0.0f), F32(1.0f) / d, F32(0.0f));
}

template <bool WithMatrix>
void quantize_nl_batch(const Batch<QK4_NL, block_iq4_nl>& batch) {
    alignas(64) float x[kLength * kLanes];
    alignas(64) float qw[kLength * kLanes];
    alignas(64) float w[kLength * kLanes];
    alignas(64) int32_t levels[kLength * kLanes];
    alignas(64) int32_t words[4 * kLanes];
    alignas(64) int32_t d[kLanes];
    const Codebook codebook;
    batch.load_x(x);
    if (WithMatrix) batch.load_imatrix(qw);
    const F32 sigma2 = sum_of_squares(x, kLength) * F32(2.0f / 32);
    block_weights<WithMatrix>(x, qw, sigma2, w);
    const F32 scale = search_scale(x, w, codebook);
    choose_levels(x, inverse_or_zero(scale), codebook, levels);
    pack_nibbles(levels, words);
    store(d, to_half(scale));
    for (int lane = 0; lane < batch.count; ++lane) {
        batch.out[lane]->d = static_cast<ggml_half>(d[lane]);
        store_words(words, 4, lane, batch.out[lane]->qs);
    }
}

template <bool WithMatrix>
void quantize_xs_batch(const Batch<kSuperBlock, block_iq4_xs>& batch) {
    constexpr int kBlocks = kSuperBlock / kLength;
    constexpr int kWords = 2 + 4 * kBlocks;
    static_assert(sizeof(block_iq4_xs) == 4 * kWords, "block_iq4_xs has another layout");
    alignas(64) float x[kSuperBlock * kLanes];
    alignas(64) float qw[kSuperBlock * kLanes];
    alignas(64) float w[kLength * kLanes];
    alignas(64) int32_t levels[kLength * kLanes];
    alignas(64) int32_t words[kWords * kLanes];
    const Codebook codebook;
    batch.load_x(x);
    if (WithMatrix) batch.load_imatrix(qw);
    const F32 zero = 0.0f;
    const F32 sigma2 = sum_of_squares(x, kSuperBlock) * F32(2.0f / 256);
    F32 scales[kBlocks];
    F32 max_scale = zero, amax_scale = zero;
    for (int j = 0; j < kBlocks; ++j) {
        const int at = j * kLength * kLanes;
        block_weights<WithMatrix>(x + at, qw + at, sigma2, w);
        scales[j] = search_scale(x + at, w, codebook);
        const F32 magnitude = abs(scales[j]);
        const Mask larger = magnitude > amax_scale;
        amax_scale = select(larger, magnitude, amax_scale);
        max_scale = select(larger, scales[j], max_scale);
    }
    const F32 d = negate(max_scale) / F32(32.0f);
    const F32 inverse = inverse_or_zero(d);
    I32 scales_low = 0, scales_high = 0;
    for (int j = 0; j < kBlocks; ++j) {
        const I32 l = clamp(nearest_int(inverse * scales[j]), -32, 31);
        choose_levels(x + j * kLength * kLanes, inverse_or_zero(d * to_float(l)), codebook, levels);
        pack_nibbles(levels, words + (2 + 4 * j) * kLanes);
        const I32 shifted = l + I32(32);
        scales_low = scales_low | ((shifted & I32(0xF)) << (4 * j));
        scales_high = scales_high | ((shifted >> 4) << (2 * j));
    }
    store(words, to_half(d) | (scales_high << 16));
    store(words + kLanes, scales_low);
    for (int lane = 0; lane < batch.count; ++lane) {
        store_words(words, kWords, lane, batch.out[lane]);
    }
}

template <bool WithMatrix>
void quantize_nl(const float* src, void* dst, int64_t nrows, int64_t n_per_row,
                 const float* imatrix) {
    for_each_batch<QK4_NL, block_iq4_nl>(src, dst, nrows, n_per_row, imatrix,
                                         quantize_nl_batch<WithMatrix>);
}

template <bool WithMatrix>
void quantize_xs(const float* src, void* dst, int64_t nrows, int64_t n_per_row,
                 const float* imatrix) {
    for_each_batch<kSuperBlock, block_iq4_xs>(src, dst, nrows, n_per_row, imatrix,
                                              quantize_xs_batch<WithMatrix>);
}

}  // namespace

QuantizeRows iq4_nl(bool with_imatrix) {
    return with_imatrix ? quantize_nl<true> : quantize_nl<false>;
}

QuantizeRows iq4_xs(bool with_imatrix) {
    return with_imatrix ? quantize_xs<true> : quantize_xs<false>;
}

}  // namespace apex::kernels::APEX_ISA
