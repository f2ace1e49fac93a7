// Q4_K and Q5_K: eight sub-blocks of 32 weights, each with a 6-bit scale and a 6-bit minimum.
// Scalar twins: quantize_row_q4_K_impl, quantize_row_q5_K_impl (with a matrix),
// quantize_row_q4_K_ref, quantize_row_q5_K_ref (without).
#include "families.h"
#include "ggml_blocks.h"
#include "packing.h"
#include "search_positive_scale.h"
#include "search_scale_min.h"

namespace apex::kernels::APEX_ISA {

namespace {

constexpr int kSubBlocks = 8;
constexpr int kLength = 32;

// Levels and 6-bit scales of a batch, one int32 lane per super-block.
struct Fields {
    alignas(64) int32_t levels[kSuperBlock * kLanes];
    alignas(64) int32_t scales[kSubBlocks * kLanes];
    alignas(64) int32_t mins[kSubBlocks * kLanes];
    I32 d, dmin;  // fp16 bits

    // K_SCALE_SIZE bytes: the inverse of get_scale_min_k4, kept to the byte also for values
    // beyond six bits, which ggml lets overflow into their neighbours.
    void pack_scales(int32_t* words) const {
        I32 byte[12];
        for (int j = 0; j < 4; ++j) {
            byte[j] = load(scales + j * kLanes);
            byte[j + 4] = load(mins + j * kLanes);
        }
        for (int j = 4; j < 8; ++j) {
            const I32 ls = load(scales + j * kLanes);
            const I32 lm = load(mins + j * kLanes);
            byte[j + 4] = (ls & I32(0xF)) | ((lm & I32(0xF)) << 4);
            byte[j - 4] = byte[j - 4] | ((ls >> 4) << 6);
            byte[j] = byte[j] | ((lm >> 4) << 6);
        }
        for (int w = 0; w < 3; ++w) {
            I32 word = 0;
            for (int b = 0; b < 4; ++b) word = word | ((byte[4 * w + b] & I32(0xff)) << (8 * b));
            store(words + w * kLanes, word);
        }
    }

    // What get_scale_min_k4 reads back: the low six bits of scales that fit.
    static void unpack_scale(const int32_t* words, int j, I32* scale, I32* min_value) {
        const auto byte = [&](int b) {
            return (load(words + (b / 4) * kLanes) >> (8 * (b % 4))) & I32(0xff);
        };
        if (j < 4) {
            *scale = byte(j) & I32(63);
            *min_value = byte(j + 4) & I32(63);
        } else {
            *scale = (byte(j + 4) & I32(0xF)) | ((byte(j - 4) >> 6) << 4);
            *min_value = (byte(j + 4) >> 4) | ((byte(j) >> 6) << 4);
        }
    }
};

// Levels from the scales as a reader will see them. A sub-block whose scale is zero keeps the
// levels of the search.
void requantize(const float* x, const ScaleMin* found, int nmax, const int32_t* scale_words,
                Fields* f) {
    const F32 d_block = float_from_half(f->d);
    const F32 min_block = float_from_half(f->dmin);
    for (int j = 0; j < kSubBlocks; ++j) {
        I32 sc, m;
        Fields::unpack_scale(scale_words, j, &sc, &m);
        const F32 d = d_block * to_float(sc);
        const F32 dm = min_block * to_float(m);
        const Mask keep = d == F32(0.0f);
        const bool keep_any = any(keep);
        for (int i = 0; i < kLength; ++i) {
            const int at = (j * kLength + i) * kLanes;
            const F32 xi = load(x + at);
            I32 l = clamp(nearest_int((xi + dm) / d), 0, nmax);
            if (keep_any) l = select(keep, found[j].level(xi, nmax), l);
            store(f->levels + at, l);
        }
    }
}

// qs: low nibbles of weights 64 n + i and 64 n + 32 + i share a byte.
void pack_nibbles(const int32_t* levels, int32_t* words) {
    for (int n = 0; n < 4; ++n) {
        for (int w = 0; w < 8; ++w) {
            store(words + (8 * n + w) * kLanes, word_of([&](int b) {
                      const int i = 64 * n + 4 * w + b;
                      const I32 low = load(levels + i * kLanes) & I32(0xF);
                      const I32 high = load(levels + (i + 32) * kLanes) & I32(0xF);
                      return low | (high << 4);
                  }));
        }
    }
}

// qh: bit n of byte i is the fifth bit of weight 32 n + i.
void pack_fifth_bits(const int32_t* levels, int32_t* words) {
    for (int w = 0; w < 8; ++w) {
        store(words + w * kLanes, word_of([&](int b) {
                  I32 byte = 0;
                  for (int n = 0; n < 8; ++n) {
                      const I32 l = load(levels + (32 * n + 4 * w + b) * kLanes);
                      byte = byte | ((l >> 4) << n);
                  }
                  return byte;
              }));
    }
}

// With a matrix: weighted search, then a weighted search over the scales and the minima.
void search_with_matrix(const float* x, const float* imatrix, int nmax, bool cap_at_63,
                        ScaleMin* found, Fields* f) {
    alignas(64) float w[kLength * kLanes];
    alignas(64) float scales[kSubBlocks * kLanes];
    alignas(64) float mins[kSubBlocks * kLanes];
    alignas(64) float sums[kSubBlocks * kLanes];
    const F32 sigma2 = F32(2.0f) * sum_of_squares(x, kSuperBlock) / F32(256.0f);
    for (int j = 0; j < kSubBlocks; ++j) {
        const float* xj = x + j * kLength * kLanes;
        importance_weights(xj, imatrix + j * kLength * kLanes, sigma2, kLength, w);
        store(sums + j * kLanes, serial_sum(w, kLength));
        found[j] = search_scale_min<kLength, false>(xj, w, nmax, {-0.9f, 0.05f, 36});
        store(scales + j * kLanes, found[j].scale);
        store(mins + j * kLanes, found[j].the_min);
    }
    f->d = to_half(search_positive_scale<kSubBlocks>(scales, sums, 63, f->scales));
    f->dmin = to_half(search_positive_scale<kSubBlocks>(mins, sums, 63, f->mins));
    for (int j = 0; cap_at_63 && j < kSubBlocks; ++j) {
        store(f->scales + j * kLanes, min(I32(63), load(f->scales + j * kLanes)));
        store(f->mins + j * kLanes, min(I32(63), load(f->mins + j * kLanes)));
    }
}

// Without: weights from the values alone; scales and minima as fractions of their maximum.
void search_without_matrix(const float* x, int nmax, ScaleSteps steps, ScaleMin* found, Fields* f) {
    alignas(64) float w[kLength * kLanes];
    const F32 zero = 0.0f;
    F32 max_scale = zero;
    F32 max_min = zero;
    for (int j = 0; j < kSubBlocks; ++j) {
        const float* xj = x + j * kLength * kLanes;
        const F32 av_x = sqrt(sum_of_squares(xj, kLength) / F32(32.0f));
        for (int i = 0; i < kLength; ++i) {
            store(w + i * kLanes, av_x + abs(load(xj + i * kLanes)));
        }
        found[j] = search_scale_min<kLength, false>(xj, w, nmax, steps);
        max_scale = max(found[j].scale, max_scale);
        max_min = max(found[j].the_min, max_min);
    }
    const F32 inv_scale = select(max_scale > zero, F32(63.0f) / max_scale, zero);
    const F32 inv_min = select(max_min > zero, F32(63.0f) / max_min, zero);
    const I32 byte = 0xff;
    for (int j = 0; j < kSubBlocks; ++j) {
        const I32 ls = nearest_int(inv_scale * found[j].scale) & byte;
        const I32 lm = nearest_int(inv_min * found[j].the_min) & byte;
        store(f->scales + j * kLanes, min(I32(63), ls));
        store(f->mins + j * kLanes, min(I32(63), lm));
    }
    f->d = to_half(max_scale / F32(63.0f));
    f->dmin = to_half(max_min / F32(63.0f));
}

// Bits: 4 or 5. Both blocks are d, dmin, scales, [qh,] qs.
template <int Bits, typename Block, bool WithMatrix>
void quantize(const float* src, void* dst, int64_t nrows, int64_t n_per_row, const float* imatrix) {
    constexpr int kMax = (1 << Bits) - 1;
    static constexpr ScaleSteps kSteps =
        Bits == 4 ? ScaleSteps{-1.0f, 0.1f, 20} : ScaleSteps{-0.5f, 0.1f, 15};
    constexpr int kWords = sizeof(Block) / 4;
    const auto quantize_batch = [](const Batch<kSuperBlock, Block>& batch) {
        alignas(64) float x[kSuperBlock * kLanes];
        alignas(64) int32_t words[kWords * kLanes];
        ScaleMin found[kSubBlocks];
        Fields f;
        batch.load_x(x);
        if (WithMatrix) {
            alignas(64) float qw[kSuperBlock * kLanes];
            batch.load_imatrix(qw);
            search_with_matrix(x, qw, kMax, Bits == 5, found, &f);
        } else {
            search_without_matrix(x, kMax, kSteps, found, &f);
        }
        store(words, f.d | (f.dmin << 16));
        f.pack_scales(words + kLanes);
        requantize(x, found, kMax, words + kLanes, &f);
        int32_t* next = words + 4 * kLanes;
        if (Bits == 5) {
            pack_fifth_bits(f.levels, next);
            next += 8 * kLanes;
        }
        pack_nibbles(f.levels, next);
        for (int lane = 0; lane < batch.count; ++lane) {
            store_words(words, kWords, lane, batch.out[lane]);
        }
    };
    for_each_batch<kSuperBlock, Block>(src, dst, nrows, n_per_row, imatrix, quantize_batch);
}

}  // namespace

QuantizeRows q4_k(bool with_imatrix) {
    return with_imatrix ? quantize<4, block_q4_K, true> : quantize<4, block_q4_K, false>;
}

QuantizeRows q5_k(bool with_imatrix) {
    return with_imatrix ? quantize<5, block_q5_K, true> : quantize<5, block_q5_K, false>;
}

}  // namespace apex::kernels::APEX_ISA
