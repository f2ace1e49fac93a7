// Q3_K: sixteen sub-blocks of 16 weights, each with a signed 6-bit scale.
// Scalar twins: quantize_row_q3_K_impl (with a matrix), quantize_row_q3_K_ref and make_q3_quants
// (without).
#include "families.h"
#include "ggml_blocks.h"
#include "packing.h"
#include "search_signed_scale.h"

namespace apex::kernels::APEX_ISA {

namespace {

constexpr int kSubBlocks = 16;
constexpr int kLength = 16;
constexpr int kMax = 4;

struct Fields {
    I32 scales[kSubBlocks];  // 0..63, that is scale + 32
    I32 d;                   // fp16 bits
};

// With a matrix: weighted searches over the values and then over the scales. The levels of a zero
// sub-block are those of `found`.
void search_with_matrix(const float* x, const float* imatrix, SignedScale* found, Fields* f) {
    alignas(64) float w[kLength * kLanes];
    alignas(64) float wx[kLength * kLanes];
    alignas(64) float scales[kSubBlocks * kLanes];
    alignas(64) float sums[kSubBlocks * kLanes];
    const F32 sigma2 = F32(2.0f) * sum_of_squares(x, kSuperBlock) / F32(256.0f);
    for (int j = 0; j < kSubBlocks; ++j) {
        const float* xj = x + j * kLength * kLanes;
        importance_weights(xj, imatrix + j * kLength * kLanes, sigma2, kLength, w);
        store(sums + j * kLanes, serial_sum(w, kLength));
        found[j] = search_signed_scale<kLength>(xj, w, kMax, wx);
        store(scales + j * kLanes, found[j].scale);
    }
    const SignedScale block = search_signed_scale<kSubBlocks>(scales, sums, 32, wx);
    for (int j = 0; j < kSubBlocks; ++j) {
        f->scales[j] = block.level(load(scales + j * kLanes), 32);
    }
    f->d = to_half(block.scale);
}

// make_q3_quants: coordinate descent from the plain rounding, at most five passes; a lane stops
// after a pass that changed nothing. levels: kLength lanes of 0..7. Returns the scale.
F32 descend(const float* x, int32_t* levels) {
    alignas(64) float w[kLength * kLanes];
    alignas(64) float wx[kLength * kLanes];
    const F32 zero = 0.0f;
    F32 amax;
    const F32 largest = largest_magnitude<kLength>(x, &amax);
    const Mask active = ~(amax < F32(1e-15f));  // GROUP_MAX_EPS
    const F32 inverse = F32(static_cast<float>(-kMax)) / largest;
    F32 sumlx = zero, suml2 = zero;
    alignas(64) float l[kLength * kLanes];
    for (int i = 0; i < kLength; ++i) {
        const F32 xi = load(x + i * kLanes);
        // In range: |inverse * x| <= kMax wherever the lane is active.
        const F32 li = nearest_clamped_in_range(inverse * xi, -kMax, kMax - 1);
        const F32 wi = xi * xi;
        const F32 wxi = wi * xi;
        store(l + i * kLanes, li);
        store(w + i * kLanes, wi);
        store(wx + i * kLanes, wxi);
        sumlx = sumlx + wxi * li;
        suml2 = suml2 + wi * li * li;
    }
    Mask running = active;
    for (int pass = 0; pass < 5 && any(running); ++pass) {
        Mask changed = no_lanes();
        for (int i = 0; i < kLength; ++i) {
            const F32 wi = load(w + i * kLanes);
            const F32 wxi = load(wx + i * kLanes);
            const F32 old_l = load(l + i * kLanes);
            F32 slx = sumlx - wxi * old_l;
            F32 sl2 = suml2 - wi * old_l * old_l;
            const I32 rounded = nearest_int(load(x + i * kLanes) * sl2 / slx);
            const F32 new_l = to_float(clamp(rounded, -kMax, kMax - 1));
            const Mask differs = running & (slx > zero) & (new_l != old_l);
            if (!any(differs)) continue;
            slx = slx + wxi * new_l;
            sl2 = sl2 + wi * new_l * new_l;
            const Mask better = differs & (sl2 > zero) & (slx * slx * suml2 > sumlx * sumlx * sl2);
            store(l + i * kLanes, select(better, new_l, old_l));
            sumlx = select(better, slx, sumlx);
            suml2 = select(better, sl2, suml2);
            changed = changed | better;
        }
        running = running & changed;
    }
    for (int i = 0; i < kLength; ++i) {
        const I32 shifted = to_int_truncated(load(l + i * kLanes)) + I32(kMax);
        store(levels + i * kLanes, select(active, shifted, I32(0)));
    }
    const F32 scale = select(suml2 > zero, sumlx / suml2, zero);
    return select(active, scale, zero);
}

void search_without_matrix(const float* x, int32_t* levels, Fields* f) {
    F32 scales[kSubBlocks];
    F32 amax = 0.0f;
    F32 max_scale = 0.0f;
    for (int j = 0; j < kSubBlocks; ++j) {
        scales[j] = descend(x + j * kLength * kLanes, levels + j * kLength * kLanes);
        const F32 magnitude = abs(scales[j]);
        const Mask larger = magnitude > amax;
        amax = select(larger, magnitude, amax);
        max_scale = select(larger, scales[j], max_scale);
    }
    const Mask has_scale = max_scale != F32(0.0f);
    const F32 inverse = F32(-32.0f) / max_scale;
    for (int j = 0; j < kSubBlocks; ++j) {
        // ggml keeps the rounded scale in an int8 before it clamps.
        const I32 l = sign_extend_byte(nearest_int(inverse * scales[j]));
        f->scales[j] = select(has_scale, clamp(l, -32, 31) + I32(32), I32(0));
    }
    f->d = to_half(select(has_scale, F32(1.0f) / inverse, F32(0.0f)));
}

// Levels from the scales as a reader will see them. A sub-block whose scale is zero keeps the
// levels of the search: those of `found`, or if null those already in levels.
void requantize(const float* x, const SignedScale* found, const Fields& f, int32_t* levels) {
    const F32 d_block = float_from_half(f.d);
    for (int j = 0; j < kSubBlocks; ++j) {
        const F32 d = d_block * to_float(f.scales[j] - I32(32));
        const Mask keep = d == F32(0.0f);
        const bool keep_any = any(keep);
        for (int i = 0; i < kLength; ++i) {
            const int at = (j * kLength + i) * kLanes;
            const F32 xi = load(x + at);
            I32 l = clamp(nearest_int(xi / d), -kMax, kMax - 1) + I32(kMax);
            if (keep_any) {
                l = select(keep, found ? found[j].level(xi, kMax) : load(levels + at), l);
            }
            store(levels + at, l);
        }
    }
}

// Bit n of hmask byte i is the high bit of weight 32 n + i.
void pack_high_bits(const int32_t* levels, int32_t* words) {
    for (int w = 0; w < 8; ++w) {
        I32 word = 0;
        for (int b = 0; b < 4; ++b) {
            for (int n = 0; n < 8; ++n) {
                const I32 l = load(levels + (32 * n + 4 * w + b) * kLanes);
                word = word | ((l >> 2) << (8 * b + n));
            }
        }
        store(words + w * kLanes, word);
    }
}

// Low nibbles of scales j and j + 8 share a byte; the last four bytes take the upper two bits.
void pack_scales(const Fields& f, int32_t* words) {
    for (int w = 0; w < 2; ++w) {
        store(words + w * kLanes, word_of([&](int b) {
                  const int j = 4 * w + b;
                  return (f.scales[j] & I32(0xF)) | ((f.scales[j + 8] & I32(0xF)) << 4);
              }));
    }
    store(words + 2 * kLanes, word_of([&](int b) {
              I32 byte = 0;
              for (int q = 0; q < 4; ++q) byte = byte | ((f.scales[4 * q + b] >> 4) << (2 * q));
              return byte;
          }));
}

template <bool WithMatrix>
void quantize(const float* src, void* dst, int64_t nrows, int64_t n_per_row, const float* imatrix) {
    constexpr int kWords = 27;  // hmask, qs and scales; d follows
    static_assert(sizeof(block_q3_K) == 4 * kWords + 2, "block_q3_K has another layout");
    const auto quantize_batch = [](const Batch<kSuperBlock, block_q3_K>& batch) {
        alignas(64) float x[kSuperBlock * kLanes];
        alignas(64) int32_t levels[kSuperBlock * kLanes];
        alignas(64) int32_t words[kWords * kLanes];
        alignas(64) int32_t d[kLanes];
        SignedScale found[kSubBlocks];
        Fields f;
        batch.load_x(x);
        if (WithMatrix) {
            alignas(64) float qw[kSuperBlock * kLanes];
            batch.load_imatrix(qw);
            search_with_matrix(x, qw, found, &f);
            requantize(x, found, f, levels);
        } else {
            search_without_matrix(x, levels, &f);
            requantize(x, nullptr, f, levels);
        }
        pack_high_bits(levels, words);
        pack_two_bits(levels, words + 8 * kLanes);
        pack_scales(f, words + 24 * kLanes);
        store(d, f.d);
        for (int lane = 0; lane < batch.count; ++lane) {
            store_words(words, kWords, lane, batch.out[lane]);
            batch.out[lane]->d = static_cast<ggml_half>(d[lane]);
        }
    };
    for_each_batch<kSuperBlock, block_q3_K>(src, dst, nrows, n_per_row, imatrix, quantize_batch);
}

}  // namespace

QuantizeRows q3_k(bool with_imatrix) {
    return with_imatrix ? quantize<true> : quantize<false>;
}

}  // namespace apex::kernels::APEX_ISA
