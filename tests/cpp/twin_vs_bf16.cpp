// Products of BF16 rows by every kernel this CPU has, against a scalar twin that says in which
// order they are added: the same bits are expected. Run on x86 and, under qemu, on 64-bit ARM.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/bf16_products.h"

namespace {

using namespace apex::kernels;

constexpr int kColumns = 7;  // two steps of three, and one

// 32 sums, one for each column modulo 32; then by eights, 0 + 2 and 1 + 3; then halves; of F16
// values neighbours in the end.
float twin(const float* row, const float* column, int64_t n_per_row, bool of_f16) {
    float sums[32] = {};
    for (int64_t i = 0; i < n_per_row; ++i) {
        sums[i % 32] = std::fmaf(row[i], column[i], sums[i % 32]);
    }
    float eight[8];
    for (int k = 0; k < 8; ++k) {
        eight[k] = (sums[k] + sums[16 + k]) + (sums[8 + k] + sums[24 + k]);
    }
    float four[4];
    for (int k = 0; k < 4; ++k) four[k] = eight[k] + eight[4 + k];
    if (of_f16) return (four[0] + four[1]) + (four[2] + four[3]);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

// A BF16 value, or an F16 one far from its limits, of either sign with an exponent in [lowest,
// lowest + n_exponents).
float value(std::mt19937& random, uint32_t lowest, uint32_t n_exponents) {
    const uint32_t mantissa_and_sign = random() & 0x807f0000u;
    const uint32_t bits = mantissa_and_sign | (lowest + random() % n_exponents) << 23;
    float result;
    std::memcpy(&result, &bits, sizeof(result));
    return result;
}

bool same(float a, float b) {
    return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b));
}

int64_t count_differences(Bf16Products products, bool of_f16, int n_rows, int64_t n_per_row,
                          uint32_t lowest, uint32_t n_exponents, std::mt19937& random) {
    std::vector<float> values(static_cast<size_t>((n_rows + kColumns) * n_per_row));
    for (float& v : values) v = value(random, lowest, n_exponents);
    const float* columns[kColumns];
    std::vector<float> results(static_cast<size_t>(kColumns * (kBf16Rows + 1)));
    float* outputs[kColumns];
    for (int c = 0; c < kColumns; ++c) {
        columns[c] = values.data() + (n_rows + c) * n_per_row;
        outputs[c] = results.data() + c * (kBf16Rows + 1);
    }
    products(values.data(), n_rows, n_per_row, columns, kColumns, outputs, 1);
    int64_t n_differ = 0;
    for (int c = 0; c < kColumns; ++c) {
        for (int r = 0; r < n_rows; ++r) {
            const float expected =
                twin(values.data() + r * n_per_row, columns[c], n_per_row, of_f16);
            if (!same(expected, outputs[c][1 + r])) ++n_differ;
        }
    }
    return n_differ;
}

int64_t count_all(Bf16Products products, bool of_f16) {
    std::mt19937 random(1);
    int64_t n_differ = 0;
    for (const int64_t n_per_row : {32, 96, 224, 2048}) {
        for (int n_rows = 1; n_rows <= kBf16Rows; ++n_rows) {
            const auto differ = [&](uint32_t lowest, uint32_t n_exponents) {
                n_differ += count_differences(products, of_f16, n_rows, n_per_row, lowest,
                                              n_exponents, random);
            };
            if (of_f16) {
                differ(113, 29);  // what is normal in F16
                continue;
            }
            differ(110, 30);  // weights and activations
            differ(40, 40);   // products that vanish
            differ(160, 40);  // sums that overflow
        }
    }
    return n_differ;
}

}  // namespace

int main() {
    struct {
        Isa isa;
        const char* name;
    } const isas[] = {{Isa::neon, "neon"}, {Isa::avx2, "avx2"}, {Isa::avx512, "avx512"}};
    int64_t n_kernels = 0, n_all = 0;
    for (const auto& [isa, name] : isas) {
        for (const bool of_f16 : {false, true}) {
            const Bf16Products products = of_f16 ? f16_products(isa) : bf16_products(isa);
            if (products == nullptr) continue;
            const int64_t n_differ = count_all(products, of_f16);
            std::printf("%s %s differ %lld\n", name, of_f16 ? "f16" : "bf16",
                        static_cast<long long>(n_differ));
            ++n_kernels;
            n_all += n_differ;
        }
    }
    if (n_kernels == 0) std::printf("no kernel for this CPU\n");
    return n_all == 0 ? 0 : 1;
}
