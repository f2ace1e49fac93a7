// No std templates and everything in a namespace per instruction set: see simd.h.
#include "bf16_products.h"

#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif

#include "unroll.h"

#if defined(__aarch64__)
#define APEX_BF16_ISA bf16_neon
#elif defined(__AVX512F__)
#define APEX_BF16_ISA bf16_avx512
#else
#define APEX_BF16_ISA bf16_avx2
#endif

namespace apex::kernels::APEX_BF16_ISA {

namespace {

constexpr int kColumns = 3;  // taken at once

enum class Values { bf16, f16 };

#if !defined(__aarch64__)

// ggml's last additions: the eight sums that are left, in halves; of BF16
// (ggml/src/ggml-cpu/vec.cpp) the four after that are halved again, of F16 (simd-mappings.h)
// neighbours are added.
template <Values V>
inline float add_eight(__m256 sums) {
    __m128 rest = _mm_add_ps(_mm256_extractf128_ps(sums, 1), _mm256_castps256_ps128(sums));
    if constexpr (V == Values::f16) {
        rest = _mm_hadd_ps(rest, rest);
        return _mm_cvtss_f32(_mm_hadd_ps(rest, rest));
    }
    rest = _mm_add_ps(rest, _mm_movehl_ps(rest, rest));
    rest = _mm_add_ss(rest, _mm_movehdup_ps(rest));
    return static_cast<float>(0.0 + static_cast<double>(_mm_cvtss_f32(rest)));
}

#endif

#if defined(__AVX512F__)

// Sums of 12 products fill 24 of 32 registers. The first half of a register holds ggml's first or
// third vector of sums, the second half its second or fourth.
struct Sums {
    __m512 low, high;

    void clear() { low = high = _mm512_setzero_ps(); }
    void add(const float* row, __m512 column_low, __m512 column_high) {
        low = _mm512_fmadd_ps(_mm512_loadu_ps(row), column_low, low);
        high = _mm512_fmadd_ps(_mm512_loadu_ps(row + 16), column_high, high);
    }
    template <Values V>
    float total() const {
        const __m512 both = _mm512_add_ps(low, high);
        return add_eight<V>(
            _mm256_add_ps(_mm512_castps512_ps256(both), _mm512_extractf32x8_ps(both, 1)));
    }
};

template <Values V, int R, int C>
void block(const float* rows, int64_t n_per_row, const float* const* columns, float* const* outputs,
           int64_t first) {
    Sums sums[C][R];
    APEX_UNROLL_FULLY
    for (int c = 0; c < C; ++c) {
        APEX_UNROLL_FULLY
        for (int r = 0; r < R; ++r) sums[c][r].clear();
    }
    for (int64_t i = 0; i < n_per_row; i += kBf16RowMultiple) {
        APEX_UNROLL_FULLY
        for (int c = 0; c < C; ++c) {
            const __m512 low = _mm512_loadu_ps(columns[c] + i);
            const __m512 high = _mm512_loadu_ps(columns[c] + i + 16);
            APEX_UNROLL_FULLY
            for (int r = 0; r < R; ++r) sums[c][r].add(rows + r * n_per_row + i, low, high);
        }
    }
    APEX_UNROLL_FULLY
    for (int c = 0; c < C; ++c) {
        APEX_UNROLL_FULLY
        for (int r = 0; r < R; ++r) outputs[c][first + r] = sums[c][r].template total<V>();
    }
}

#else

// One of ggml's four vectors of sums: on ARM columns 0 to 3 of its eight, and 4 to 7.
#if defined(__aarch64__)
struct Eight {
    float32x4_t low, high;
};
inline Eight load_eight(const float* x) {
    return {vld1q_f32(x), vld1q_f32(x + 4)};
}
inline Eight zero_eight() {
    return {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
}
inline Eight plus(Eight a, Eight b) {
    return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)};
}
inline Eight fused(Eight a, Eight b, Eight sum) {
    return {vfmaq_f32(sum.low, a.low, b.low), vfmaq_f32(sum.high, a.high, b.high)};
}
template <Values V>
inline float add_eight(Eight sums) {
    static_assert(V == Values::bf16, "ggml computes F16 otherwise here");
    const float32x4_t four = vaddq_f32(sums.high, sums.low);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return static_cast<float>(0.0 +
                              static_cast<double>(vget_lane_f32(two, 0) + vget_lane_f32(two, 1)));
}
#else
using Eight = __m256;
inline Eight load_eight(const float* x) {
    return _mm256_loadu_ps(x);
}
inline Eight zero_eight() {
    return _mm256_setzero_ps();
}
inline Eight plus(Eight a, Eight b) {
    return _mm256_add_ps(a, b);
}
inline Eight fused(Eight a, Eight b, Eight sum) {
    return _mm256_fmadd_ps(a, b, sum);
}
#endif

// One vector of sums at a time, for 12 products: AVX2's 16 registers hold no more, ARM's 32
// hold 24.
template <int R, int C>
void sum_part(const float* rows, int64_t n_per_row, const float* const* columns, int part,
              Eight (*totals)[4]) {
    Eight sums[C][R];
    APEX_UNROLL_FULLY
    for (int c = 0; c < C; ++c) {
        APEX_UNROLL_FULLY
        for (int r = 0; r < R; ++r) sums[c][r] = zero_eight();
    }
    for (int64_t i = 8 * part; i < n_per_row; i += kBf16RowMultiple) {
        Eight column[C];
        APEX_UNROLL_FULLY
        for (int c = 0; c < C; ++c) column[c] = load_eight(columns[c] + i);
        APEX_UNROLL_FULLY
        for (int r = 0; r < R; ++r) {
            const Eight row = load_eight(rows + r * n_per_row + i);
            APEX_UNROLL_FULLY
            for (int c = 0; c < C; ++c) sums[c][r] = fused(row, column[c], sums[c][r]);
        }
    }
    APEX_UNROLL_FULLY
    for (int c = 0; c < C; ++c) {
        APEX_UNROLL_FULLY
        for (int r = 0; r < R; ++r) totals[c * R + r][part] = sums[c][r];
    }
}

template <Values V, int R, int C>
void block(const float* rows, int64_t n_per_row, const float* const* columns, float* const* outputs,
           int64_t first) {
    Eight totals[C * R][4];
    APEX_UNROLL_FULLY
    for (int part = 0; part < 4; ++part) sum_part<R, C>(rows, n_per_row, columns, part, totals);
    APEX_UNROLL_FULLY
    for (int c = 0; c < C; ++c) {
        APEX_UNROLL_FULLY
        for (int r = 0; r < R; ++r) {
            const Eight* sums = totals[c * R + r];
            outputs[c][first + r] =
                add_eight<V>(plus(plus(sums[0], sums[2]), plus(sums[1], sums[3])));
        }
    }
}

#endif

template <Values V, int R>
void all_columns(const float* rows, int64_t n_per_row, const float* const* columns,
                 int64_t n_columns, float* const* outputs, int64_t first) {
    int64_t c = 0;
    for (; c + kColumns <= n_columns; c += kColumns) {
        block<V, R, kColumns>(rows, n_per_row, columns + c, outputs + c, first);
    }
    for (; c < n_columns; ++c) block<V, R, 1>(rows, n_per_row, columns + c, outputs + c, first);
}

template <Values V>
void products(const float* rows, int n_rows, int64_t n_per_row, const float* const* columns,
              int64_t n_columns, float* const* outputs, int64_t first) {
    if (n_rows == 4) return all_columns<V, 4>(rows, n_per_row, columns, n_columns, outputs, first);
    if (n_rows == 3) return all_columns<V, 3>(rows, n_per_row, columns, n_columns, outputs, first);
    if (n_rows == 2) return all_columns<V, 2>(rows, n_per_row, columns, n_columns, outputs, first);
    all_columns<V, 1>(rows, n_per_row, columns, n_columns, outputs, first);
}

}  // namespace

Bf16Products lookup_products() {
    return products<Values::bf16>;
}

#if !defined(__aarch64__)
Bf16Products lookup_f16_products() {
    return products<Values::f16>;
}
#endif

}  // namespace apex::kernels::APEX_BF16_ISA
