// 32 levels at a time: indices are spread to bytes, and one shuffle looks all of them up. ggml-base
// is compiled for any x86-64 CPU, so the functions name their instruction set.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "format.h"

#define TURBO_AVX2_TARGET __attribute__((target("avx2")))

namespace apex::turbo::avx2 {

template <class Format>
TURBO_AVX2_TARGET inline __m256i levels_of(__m256i index) {
    alignas(16) static constexpr auto kTable = [] {
        struct {
            int8_t level[16] = {};
        } table;
        for (int i = 0; i < 2 * kHalf<Format>; ++i) table.level[i] = turbo::level<Format>(i);
        return table;
    }();
    const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(kTable.level));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index);
}

// Parts of 32 indices, `mask` of them in each byte: lane g of 32 bits holds its group's word twice
// over, which is shifted by what stands before the group's bits.
TURBO_AVX2_TARGET inline __m256i parts(__m256i bytes, __m256i shifts, int mask) {
    const __m256i mine = _mm256_srlv_epi32(bytes, shifts);
    const __m256i even = _mm256_and_si256(mine, _mm256_set1_epi32(mask * 0x00010001));
    const __m256i odd =
        _mm256_and_si256(_mm256_srli_epi32(mine, 4), _mm256_set1_epi32(mask * 0x01000100));
    return _mm256_or_si256(even, odd);
}

TURBO_AVX2_TARGET inline __m256i two_bits(const uint8_t* eight_bytes) {
    int64_t packed;
    std::memcpy(&packed, eight_bytes, sizeof(packed));
    const __m256i each_word_to_two_lanes =
        _mm256_setr_epi8(0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3, 4, 4, 5, 5, 4, 4, 5, 5, 6,
                         6, 7, 7, 6, 6, 7, 7);
    return parts(_mm256_shuffle_epi8(_mm256_set1_epi64x(packed), each_word_to_two_lanes),
                 _mm256_setr_epi32(0, 2, 0, 2, 0, 2, 0, 2), 3);
}

TURBO_AVX2_TARGET inline __m256i one_bit(const uint8_t* four_bytes) {
    int packed;
    std::memcpy(&packed, four_bytes, sizeof(packed));
    const __m256i each_word_to_four_lanes =
        _mm256_setr_epi8(0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3, 2,
                         2, 3, 3, 2, 2, 3, 3);
    return parts(_mm256_shuffle_epi8(_mm256_set1_epi32(packed), each_word_to_four_lanes),
                 _mm256_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3), 1);
}

TURBO_AVX2_TARGET inline __m256i indices(const block_turbo2& block, int half) {
    return two_bits(block.qs + 8 * half);
}

TURBO_AVX2_TARGET inline __m256i indices(const block_turbo3& block, int half) {
    return _mm256_or_si256(two_bits(block.qs + 8 * half),
                           _mm256_slli_epi32(one_bit(block.qh + 4 * half), 2));
}

TURBO_AVX2_TARGET inline __m256i indices(const block_turbo4& block, int half) {
    const __m128i nibble = _mm_set1_epi8(15);
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block.qs + 16 * half));
    const __m128i even = _mm_and_si128(packed, nibble);
    const __m128i odd = _mm_and_si128(_mm_srli_epi16(packed, 4), nibble);
    return _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd));
}

TURBO_AVX2_TARGET inline void store_eight(float* y, __m256 scale, __m128i levels) {
    const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(levels));
    _mm256_storeu_ps(y, _mm256_mul_ps(scale, values));
}

template <class Format>
TURBO_AVX2_TARGET void decode(const typename Format::Block* x, float* y, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; ++b) {
        const __m256 scale = _mm256_set1_ps(ggml_fp16_to_fp32(x[b].d));
        for (int half = 0; half < 2; ++half, y += 32) {
            const __m256i levels = levels_of<Format>(indices(x[b], half));
            const __m128i low = _mm256_castsi256_si128(levels);
            const __m128i high = _mm256_extracti128_si256(levels, 1);
            store_eight(y, scale, low);
            store_eight(y + 8, scale, _mm_srli_si128(low, 8));
            store_eight(y + 16, scale, high);
            store_eight(y + 24, scale, _mm_srli_si128(high, 8));
        }
    }
}

// A sum of two products of levels (at most 104) with quants (at most 127) fits in 16 bits.
template <class Format, class Q8Block>
TURBO_AVX2_TARGET float dot(const typename Format::Block* x, const Q8Block* y, int n_blocks) {
    __m256 sums = _mm256_setzero_ps();
    for (int b = 0; b < n_blocks; ++b) {
        const float scale = ggml_fp16_to_fp32(x[b].d);
        for (int half = 0; half < 2; ++half) {
            const Q8Block& other = y[2 * b + half];
            const __m256i levels = levels_of<Format>(indices(x[b], half));
            const __m256i quants = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(other.qs));
            const __m256i pairs =
                _mm256_maddubs_epi16(_mm256_abs_epi8(levels), _mm256_sign_epi8(quants, levels));
            const __m256i products = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            const __m256 both = _mm256_set1_ps(scale * ggml_fp16_to_fp32(other.d));
            sums = _mm256_add_ps(sums, _mm256_mul_ps(both, _mm256_cvtepi32_ps(products)));
        }
    }
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace apex::turbo::avx2
