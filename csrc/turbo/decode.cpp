// Blocks to values, and products with rows of Q8_0, where the CPU has AVX2 and elsewhere.
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "format.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include "decode_avx2.h"
#define TURBO_AVX2 1
#else
#define TURBO_AVX2 0
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

template <class Format>
float dot_anywhere(const typename Format::Block* x, const Q8Block* y, int n_blocks) {
    float sum = 0.0f;
    for (int b = 0; b < n_blocks; ++b) {
        for (int half = 0; half < 2; ++half) {
            const Q8Block& other = y[2 * b + half];
            int products = 0;
            for (int i = 0; i < 32; ++i) {
                products += level<Format>(index_of(x[b], 32 * half + i)) * other.qs[i];
            }
            sum += ggml_fp16_to_fp32(x[b].d) * ggml_fp16_to_fp32(other.d) *
                   static_cast<float>(products);
        }
    }
    return sum;
}

#if TURBO_AVX2
// APEX_ISA=portable does without, as for kernels/dispatch.cpp.
bool has_avx2() {
    static const bool found = [] {
        const char* name = std::getenv("APEX_ISA");
        const bool wanted = name == nullptr || std::strcmp(name, "portable") != 0;
        return wanted && __builtin_cpu_supports("avx2") != 0;
    }();
    return found;
}
#endif

template <class Format>
void decode(const void* x, float* y, int64_t k) {
    const auto* blocks = static_cast<const typename Format::Block*>(x);
#if TURBO_AVX2
    if (has_avx2()) return avx2::decode<Format>(blocks, y, k / QK_TURBO);
#endif
    decode_anywhere<Format>(blocks, y, k / QK_TURBO);
}

template <class Format>
float dot(int n, const void* x, const void* y) {
    const auto* blocks = static_cast<const typename Format::Block*>(x);
    const auto* others = static_cast<const Q8Block*>(y);
#if TURBO_AVX2
    if (has_avx2()) return avx2::dot<Format>(blocks, others, n / QK_TURBO);
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
