// Cache types turbo2, turbo3 and turbo4: blocks of any bits decoded and multiplied with Q8_0 by the
// functions that ggml calls, against a scalar twin written from csrc/turbo/README.md: the same bits
// are expected. Run on x86 and, under qemu, on 64-bit ARM, also with APEX_ISA=portable. What is
// printed has a hash of encoded rows, to be the same everywhere.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "turbo.h"

namespace {

struct Type {
    const char* name;
    int n_bits;
    size_t n_bytes;  // of a block
    std::vector<int> positive_levels;
    void (*encode)(const float*, void*, int64_t);
    void (*decode)(const void*, float*, int64_t);
    void (*dot)(int, float*, size_t, const void*, size_t, const void*, size_t, int);
};

constexpr size_t kQ8Bytes = 34;  // of 32 values: binary16, then signed bytes

float half(const uint8_t* bytes) {
    return ggml_fp16_to_fp32(static_cast<ggml_fp16_t>(bytes[0] | bytes[1] << 8));
}

int bits(const uint8_t* words, int word, int first, int n_bits) {
    const int value = words[2 * word] | words[2 * word + 1] << 8;
    return value >> first & ((1 << n_bits) - 1);
}

int level(const Type& type, const uint8_t* block, int i) {
    const uint8_t* qs = block + 2;
    const int g = i / 4, k = i % 4;
    int index;
    if (type.n_bits == 4) {
        index = bits(qs, g, 4 * k, 4);
    } else {
        index = bits(qs, g / 2, 4 * k + 2 * (g % 2), 2);
        if (type.n_bits == 3) index |= bits(qs + QK_TURBO / 4, g / 4, 4 * k + g % 4, 1) << 2;
    }
    const int n_positive = 1 << (type.n_bits - 1);
    return index < n_positive ? -type.positive_levels[static_cast<size_t>(n_positive - 1 - index)]
                              : type.positive_levels[static_cast<size_t>(index - n_positive)];
}

// Eight sums, of the products 4 k to 4 k + 3 of every 32; then halves.
float twin_dot(const Type& type, const uint8_t* x, const uint8_t* y, int n) {
    float sums[8] = {};
    for (int i = 0; i < n; i += 4) {
        const uint8_t* block = x + static_cast<size_t>(i / QK_TURBO) * type.n_bytes;
        const uint8_t* other = y + static_cast<size_t>(i / 32) * kQ8Bytes;
        int products = 0;
        for (int j = i; j < i + 4; ++j) {
            products += level(type, block, j % QK_TURBO) * static_cast<int8_t>(other[2 + j % 32]);
        }
        sums[i / 4 % 8] += half(block) * half(other) * static_cast<float>(products);
    }
    for (int k = 0; k < 4; ++k) sums[k] += sums[k + 4];
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

bool same(float a, float b) {
    return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b));
}

// Any bits, but scales that are small now and then, so that sums are mostly finite.
std::vector<uint8_t> random_bytes(std::mt19937& random, size_t n_blocks, size_t n_bytes) {
    std::vector<uint8_t> bytes(n_blocks * n_bytes);
    for (uint8_t& byte : bytes) {
        byte = static_cast<uint8_t>(random());
        if (byte == 128) byte = 127;  // Q8_0 has no -128
    }
    for (size_t b = 0; b < n_blocks; ++b) {
        if (random() % 16 != 0) bytes[b * n_bytes + 1] &= 0xbf;
    }
    return bytes;
}

int64_t count_differences(const Type& type, int n, std::mt19937& random) {
    const auto n_blocks = static_cast<size_t>(n / QK_TURBO);
    const std::vector<uint8_t> x = random_bytes(random, n_blocks, type.n_bytes);
    const std::vector<uint8_t> y = random_bytes(random, 2 * n_blocks, kQ8Bytes);
    std::vector<float> values(static_cast<size_t>(n));
    type.decode(x.data(), values.data(), n);
    int64_t n_differ = 0;
    for (int i = 0; i < n; ++i) {
        const uint8_t* block = x.data() + static_cast<size_t>(i / QK_TURBO) * type.n_bytes;
        const float wanted = half(block) * static_cast<float>(level(type, block, i % QK_TURBO));
        if (!same(values[static_cast<size_t>(i)], wanted)) ++n_differ;
    }
    float found;
    type.dot(n, &found, 0, x.data(), 0, y.data(), 0, 1);
    if (!same(found, twin_dot(type, x.data(), y.data(), n))) ++n_differ;
    return n_differ;
}

// FNV-1a of the blocks of rows that are nearly Gaussian, of all magnitudes.
uint64_t hash_of_encoded(const Type& type, std::mt19937& random) {
    uint64_t hash = 14695981039346656037u;
    for (int exponent = -40; exponent < 40; ++exponent) {
        float row[4 * QK_TURBO];
        for (float& value : row) {
            int sum = -2 * 65536;
            for (int i = 0; i < 4; ++i) sum += static_cast<int>(random() >> 16);
            value = std::ldexp(static_cast<float>(sum), exponent);
        }
        std::vector<uint8_t> blocks(4 * type.n_bytes);
        type.encode(row, blocks.data(), 4 * QK_TURBO);
        for (const uint8_t byte : blocks) hash = (hash ^ byte) * 1099511628211u;
    }
    return hash;
}

}  // namespace

int main() {
    const Type types[] = {{"turbo2",
                           2,
                           sizeof(block_turbo2),
                           {TURBO2_LEVELS},
                           turbo2_encode,
                           turbo2_decode,
                           turbo2_dot_q8_0},
                          {"turbo3",
                           3,
                           sizeof(block_turbo3),
                           {TURBO3_LEVELS},
                           turbo3_encode,
                           turbo3_decode,
                           turbo3_dot_q8_0},
                          {"turbo4",
                           4,
                           sizeof(block_turbo4),
                           {TURBO4_LEVELS},
                           turbo4_encode,
                           turbo4_decode,
                           turbo4_dot_q8_0}};
    int64_t n_all = 0;
    for (const Type& type : types) {
        std::mt19937 random(1);
        int64_t n_differ = 0;
        for (const int n : {64, 128, 256, 576}) {
            for (int i = 0; i < 200; ++i) n_differ += count_differences(type, n, random);
        }
        std::printf("%s differ %lld encoded %016llx\n", type.name, static_cast<long long>(n_differ),
                    static_cast<unsigned long long>(hash_of_encoded(type, random)));
        n_all += n_differ;
    }
    return n_all == 0 ? 0 : 1;
}
