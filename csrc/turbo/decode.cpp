// Blocks to values, and products with rows of Q8_0, with AVX2, with NEON and without: the same
// bits.
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "format.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include "decode_avx2.h"
#define TURBO_SIMD avx2
#elif defined(__aarch64__) && defined(__GNUC__)
#include "decode_neon.h"
#define TURBO_SIMD neon
#endif

namespace apex::turbo {
namespace {

struct Q8Block {  // block_q8_0 of ggml
    uint16_t d;
    int8_t qs[32];
};

// So many bits of the index of value i.
template <int kBits>
int bits_of(const uint8_t* words, int i) {
    const int group = i / 4, k = i % 4;
    constexpr int kGroups = 4 / kBits;
    const int in_word = 4 * k + kBits * (group % kGroups);
    return words[2 * (group / kGroups) + in_word / 8] >> in_word % 8 & ((1 << kBits) - 1);
}

int index_of(const block_turbo2& block, int i) {
    return bits_of<2>(block.qs, i);
}

int index_of(const block_turbo3& block, int i) {
    return bits_of<2>(block.qs, i) | bits_of<1>(block.qh, i) << 2;
}

int index_of(const block_turbo4& block, int i) {
    return bits_of<4>(block.qs, i);
}

template <class Format>
void decode_anywhere(const typename Format::Block* x, float* y, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; ++b, y += QK_TURBO) {
        const float scale = ggml_fp16_to_fp32(x[b].d);
        for (int i = 0; i < QK_TURBO; ++i) y[i] = scale * level<Format>(index_of(x[b], i));
    }
}

// Eight sums, of four products each of every 32; then halves of them.
template <class Format>
float dot_anywhere(const typename Format::Block* x, const Q8Block* y, int n_blocks) {
    float sums[8] = {};
    for (int b = 0; b < n_blocks; ++b) {
        for (int half = 0; half < 2; ++half) {
            const Q8Block& other = y[2 * b + half];
            const float both = ggml_fp16_to_fp32(x[b].d) * ggml_fp16_to_fp32(other.d);
            for (int k = 0; k < 8; ++k) {
                int products = 0;
                for (int i = 4 * k; i < 4 * k + 4; ++i) {
                    products += level<Format>(index_of(x[b], 32 * half + i)) * other.qs[i];
                }
                sums[k] += both * static_cast<float>(products);
            }
        }
    }
    for (int n = 4; n > 0; n /= 2) {
        for (int k = 0; k < n; ++k) sums[k] += sums[k + n];
    }
    return sums[0];
}

#if defined(TURBO_SIMD)
bool cpu_has_it() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") != 0;
#else
    return true;  // part of the architecture
#endif
}

// APEX_ISA=portable does without, as for kernels/dispatch.cpp.
bool use_simd() {
    static const bool found = [] {
        const char* name = std::getenv("APEX_ISA");
        const bool wanted = name == nullptr || std::strcmp(name, "portable") != 0;
        return wanted && cpu_has_it();
    }();
    return found;
}
#endif

template <class Format>
void decode(const void* x, float* y, int64_t k) {
    const auto* blocks = static_cast<const typename Format::Block*>(x);
#if defined(TURBO_SIMD)
    if (use_simd()) return TURBO_SIMD::decode<Format>(blocks, y, k / QK_TURBO);
#endif
    decode_anywhere<Format>(blocks, y, k / QK_TURBO);
}

template <class Format>
float dot(int n, const void* x, const void* y) {
    const auto* blocks = static_cast<const typename Format::Block*>(x);
    const auto* others = static_cast<const Q8Block*>(y);
#if defined(TURBO_SIMD)
    if (use_simd()) return TURBO_SIMD::dot<Format>(blocks, others, n / QK_TURBO);
#endif
    return dot_anywhere<Format>(blocks, others, n / QK_TURBO);
}

}  // namespace
}  // namespace apex::turbo

extern "C" {

void turbo2_decode(const void* x, float* y, int64_t k) {
    apex::turbo::decode<apex::turbo::Turbo2>(x, y, k);
}

void turbo3_decode(const void* x, float* y, int64_t k) {
    apex::turbo::decode<apex::turbo::Turbo3>(x, y, k);
}

void turbo4_decode(const void* x, float* y, int64_t k) {
    apex::turbo::decode<apex::turbo::Turbo4>(x, y, k);
}

void turbo2_dot_q8_0(int n, float* s, size_t, const void* x, size_t, const void* y, size_t, int) {
    *s = apex::turbo::dot<apex::turbo::Turbo2>(n, x, y);
}

void turbo3_dot_q8_0(int n, float* s, size_t, const void* x, size_t, const void* y, size_t, int) {
    *s = apex::turbo::dot<apex::turbo::Turbo3>(n, x, y);
}

void turbo4_dot_q8_0(int n, float* s, size_t, const void* x, size_t, const void* y, size_t, int) {
    *s = apex::turbo::dot<apex::turbo::Turbo4>(n, x, y);
}

}  // extern "C"
