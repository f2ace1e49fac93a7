// Q6_K: sixteen sub-blocks of 16 weights, each with an 8-bit scale.
// Scalar twin: quantize_row_q6_K_impl (quantize_row_q6_K_ref is the same without a matrix).
#include "families.h"
#include "ggml_blocks.h"
#include "packing.h"
#include "search_signed_scale.h"

namespace apex::kernels::APEX_ISA {

namespace {

constexpr int kSubBlocks = 16;
constexpr int kLength = 16;
constexpr int kMax = 32;

struct Fields {
    I32 scales[kSubBlocks];
    I32 d;       // fp16 bits
    Mask empty;  // the whole block is zero bytes
};

void search(const float* x, const float* imatrix, SignedScale* found, Fields* f) {
    alignas(64) float squares[kLength * kLanes];
    alignas(64) float wx[kLength * kLanes];
    F32 max_scale = 0.0f;
    F32 max_abs_scale = 0.0f;
    for (int j = 0; j < kSubBlocks; ++j) {
        const float* xj = x + j * kLength * kLanes;
        const float* w = imatrix ? imatrix + j * kLength * kLanes : squares;
        if (!imatrix) squared_weights(xj, kLength, squares);
        found[j] = search_signed_scale<kLength>(xj, w, kMax, wx);
        const F32 abs_scale = abs(found[j].scale);
        const Mask larger = abs_scale > max_abs_scale;
        max_abs_scale = select(larger, abs_scale, max_abs_scale);
        max_scale = select(larger, found[j].scale, max_scale);
    }
    f->empty = max_abs_scale < F32(1e-15f);  // GROUP_MAX_EPS
    const F32 inverse = F32(-128.0f) / max_scale;
    f->d = to_half(F32(1.0f) / inverse);
    for (int j = 0; j < kSubBlocks; ++j) {
        f->scales[j] = min(I32(127), nearest_int(inverse * found[j].scale));
    }
}

// Levels from the scales as a reader will see them. A sub-block whose scale is zero keeps the
// levels of the search.
void requantize(const float* x, const SignedScale* found, const Fields& f, int32_t* levels) {
    const F32 d_block = float_from_half(f.d);
    for (int j = 0; j < kSubBlocks; ++j) {
        const F32 d = d_block * to_float(sign_extend_byte(f.scales[j]));
        const Mask keep = d == F32(0.0f);
        const bool keep_any = any(keep);
        APEX_UNROLL
        for (int i = 0; i < kLength; ++i) {
            const int at = (j * kLength + i) * kLanes;
            const F32 xi = load(x + at);
            I32 l = clamp(nearest_int(xi / d), -kMax, kMax - 1) + I32(kMax);
            if (keep_any) l = select(keep, found[j].level(xi, kMax), l);
            store(levels + at, l);
        }
    }
}

// ql: low nibbles, byte i of half h holds weights 128 h + i and + 64; its second 32 bytes hold
// + 32 and + 96. qh: the upper two bits of the four.
void pack(const int32_t* levels, const Fields& f, int32_t* words) {
    for (int half = 0; half < 2; ++half) {
        for (int w = 0; w < 8; ++w) {
            I32 ql0 = 0, ql1 = 0, qh = 0;
            for (int b = 0; b < 4; ++b) {
                const int32_t* at = levels + (128 * half + 4 * w + b) * kLanes;
                const I32 l0 = load(at), l1 = load(at + 32 * kLanes);
                const I32 l2 = load(at + 64 * kLanes), l3 = load(at + 96 * kLanes);
                const I32 low = 0xF;
                ql0 = ql0 | (((l0 & low) | ((l2 & low) << 4)) << (8 * b));
                ql1 = ql1 | (((l1 & low) | ((l3 & low) << 4)) << (8 * b));
                const I32 high = (l0 >> 4) | ((l1 >> 4) << 2) | ((l2 >> 4) << 4) | ((l3 >> 4) << 6);
                qh = qh | (high << (8 * b));
            }
            store(words + (16 * half + w) * kLanes, ql0);
            store(words + (16 * half + 8 + w) * kLanes, ql1);
            store(words + (32 + 8 * half + w) * kLanes, qh);
        }
    }
    for (int w = 0; w < 4; ++w) {
        store(words + (48 + w) * kLanes,
              word_of([&](int b) { return f.scales[4 * w + b] & I32(0xff); }));
    }
}

template <bool WithMatrix>
void quantize(const float* src, void* dst, int64_t nrows, int64_t n_per_row, const float* imatrix) {
    constexpr int kWords = 52;  // ql, qh and scales; d follows
    static_assert(sizeof(block_q6_K) == 4 * kWords + 2, "block_q6_K has another layout");
    const auto quantize_batch = [](const Batch<kSuperBlock, block_q6_K>& batch) {
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
            search(x, qw, found, &f);
        } else {
            search(x, nullptr, found, &f);
        }
        requantize(x, found, f, levels);
        pack(levels, f, words);
        store(d, f.d);
        const uint32_t empty = bits(f.empty);
        for (int lane = 0; lane < batch.count; ++lane) {
            block_q6_K* out = batch.out[lane];
            if ((empty >> lane) & 1) {
                std::memset(out, 0, sizeof(*out));
                continue;
            }
            store_words(words, kWords, lane, out);
            out->d = static_cast<ggml_half>(d[lane]);
        }
    };
    for_each_batch<kSuperBlock, block_q6_K>(src, dst, nrows, n_per_row, imatrix, quantize_batch);
}

}  // namespace

QuantizeRows q6_k(bool with_imatrix) {
    return with_imatrix ? quantize<true> : quantize<false>;
}

}  // namespace apex::kernels::APEX_ISA
