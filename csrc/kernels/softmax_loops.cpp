// Compiled once per instruction set, as softmax_<set>; see softmax.h. For the reason given in
// simd.h everything is in a namespace of its own and no std template is used.
#include <cstring>

#include "softmax.h"

#if defined(__AVX512F__)
#define APEX_SOFTMAX softmax_avx512
#define APEX_WIDTH 8
#elif defined(__AVX2__)
#define APEX_SOFTMAX softmax_avx2
#define APEX_WIDTH 4
#else
#define APEX_SOFTMAX softmax_portable
#define APEX_WIDTH 2
#endif

namespace apex::kernels::APEX_SOFTMAX {
namespace {

constexpr int kWidth = APEX_WIDTH;
constexpr int kVectors = kSoftmaxLanes / kWidth;

using F64 = double __attribute__((vector_size(kWidth * 8)));
using I64 = int64_t __attribute__((vector_size(kWidth * 8)));
using F32 = float __attribute__((vector_size(kWidth * 4)));
using I32 = int32_t __attribute__((vector_size(kWidth * 4)));

F32 load(const float* from) {
    F32 value;
    std::memcpy(&value, from, sizeof(value));
    return value;
}

F64 load(const double* from) {
    F64 value;
    std::memcpy(&value, from, sizeof(value));
    return value;
}

F64 widen(F32 value) {
    return __builtin_convertvector(value, F64);
}

// 2^k times a polynomial on [-ln2/2, ln2/2] (Cody and Waite): adding 1.5 * 2^52 rounds to an
// integer and leaves it in the low bits; ln2 is split so that k times its high part is exact.
F64 exp(F64 x) {
    const F64 lowest = F64{} - 700.0;  // exp() stays a normal number
    x = x < lowest ? lowest : x;
    const F64 shifted = x * 0x1.71547652b82fep0 + 0x1.8p52;
    const F64 k = shifted - 0x1.8p52;
    const F64 r = (x - k * 0x1.62e42fefa0000p-1) - k * 0x1.cf79abc9e3b39p-40;
    // 1 / n!; the first term left out is r^12 / 12! < 6.4e-15.
    F64 p = r * (1.0 / 39916800) + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    I64 bits;
    std::memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits << 52) + (int64_t{1023} << 52);
    F64 scale;
    std::memcpy(&scale, &bits, sizeof(scale));
    return p * scale;
}

// 16 running sums, in as many vectors as they take.
struct Sums {
    F64 part[kVectors];

    explicit Sums(const double* lanes) { std::memcpy(part, lanes, sizeof(part)); }
    void give(double* lanes) const { std::memcpy(lanes, part, sizeof(part)); }
};

bool find_max(const float* x, int64_t n, float& max) {
    F32 top[kVectors];
    I32 bad[kVectors] = {};
    for (F32& part : top) part = F32{} + max;
    for (int64_t i = 0; i < n; i += kSoftmaxLanes) {
        for (int j = 0; j < kVectors; ++j) {
            const F32 value = load(x + i + j * kWidth);
            top[j] = value > top[j] ? value : top[j];
            I32 bits;
            std::memcpy(&bits, &value, sizeof(bits));
            bad[j] |= (bits & 0x7f800000) == 0x7f800000;  // all exponent bits: NaN or infinity
        }
    }
    int32_t n_bad = 0;
    for (int j = 0; j < kVectors; ++j) {
        for (int i = 0; i < kWidth; ++i) {
            max = top[j][i] > max ? top[j][i] : max;
            n_bad |= bad[j][i];
        }
    }
    return n_bad == 0;
}

void sum_exp(const float* x, double max, int64_t n, double* sums) {
    Sums total(sums);
    for (int64_t i = 0; i < n; i += kSoftmaxLanes) {
        for (int j = 0; j < kVectors; ++j) {
            total.part[j] += exp(widen(load(x + i + j * kWidth)) - max);
        }
    }
    total.give(sums);
}

void weigh(const float* x, double max, double floor, int64_t n, double* weights, double* sums) {
    Sums total(sums);
    for (int64_t i = 0; i < n; i += kSoftmaxLanes) {
        for (int j = 0; j < kVectors; ++j) {
            const F64 value = widen(load(x + i + j * kWidth));
            F64 weight = exp(value - max);
            weight = value > floor ? weight : F64{};
            total.part[j] += weight;
            std::memcpy(weights + i + j * kWidth, &weight, sizeof(weight));
        }
    }
    total.give(sums);
}

void compare(const float* x, const float* y, const double* weights, double max, int64_t n,
             double* sums, double* differences) {
    Sums total(sums);
    Sums difference(differences);
    for (int64_t i = 0; i < n; i += kSoftmaxLanes) {
        for (int j = 0; j < kVectors; ++j) {
            const int64_t at = i + j * kWidth;
            const F64 value = widen(load(y + at));
            difference.part[j] += load(weights + at) * (widen(load(x + at)) - value);
            total.part[j] += exp(value - max);
        }
    }
    total.give(sums);
    difference.give(differences);
}

}  // namespace

const SoftmaxLoops& loops() {
    static constexpr SoftmaxLoops all{find_max, sum_exp, weigh, compare};
    return all;
}

}  // namespace apex::kernels::APEX_SOFTMAX
