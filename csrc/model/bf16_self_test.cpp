#include "model/bf16_self_test.h"

#include <cstring>
#include <vector>

#include "ggml-cpu.h"

namespace apex {
namespace {

constexpr int64_t kPerRow = 224;  // seven steps: no power of two hides a wrong order
constexpr int kColumns = 4;       // one more than a kernel takes at once

// xorshift64* (Vigna 2016): any bits will do, the same every time.
class Bits {
  public:
    uint16_t next() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return static_cast<uint16_t>(state_ * UINT64_C(2685821657736338717) >> 48);
    }

  private:
    uint64_t state_ = 42;
};

// A sign, seven bits of mantissa, an exponent from lowest on.
uint16_t value(Bits& bits, int lowest, int n_exponents) {
    const uint16_t random = bits.next();
    const int exponent = lowest + bits.next() % n_exponents;
    return static_cast<uint16_t>((random & 0x807f) | exponent << 7);
}

float widened(uint16_t bits) {
    const uint32_t whole = static_cast<uint32_t>(bits) << 16;
    float result;
    std::memcpy(&result, &whole, sizeof(result));
    return result;
}

bool agrees(kernels::Bf16Products products, Bits& bits, int lowest, int n_exponents) {
    constexpr int kAll = kernels::kBf16Rows + kColumns;
    std::vector<ggml_bf16_t> stored(kAll * kPerRow);
    std::vector<float> floats(kAll * kPerRow);
    for (size_t i = 0; i < stored.size(); ++i) {
        stored[i].bits = value(bits, lowest, n_exponents);
        floats[i] = widened(stored[i].bits);
    }
    const float* columns[kColumns];
    float results[kColumns][kernels::kBf16Rows];
    float* outputs[kColumns];
    for (int c = 0; c < kColumns; ++c) {
        columns[c] = floats.data() + (kernels::kBf16Rows + c) * kPerRow;
        outputs[c] = results[c];
    }
    const auto vec_dot = ggml_get_type_traits_cpu(GGML_TYPE_BF16)->vec_dot;
    for (int n_rows = 1; n_rows <= kernels::kBf16Rows; ++n_rows) {
        products(floats.data(), n_rows, kPerRow, columns, kColumns, outputs, 0);
        for (int c = 0; c < kColumns; ++c) {
            for (int r = 0; r < n_rows; ++r) {
                float expected;
                vec_dot(kPerRow, &expected, 0, stored.data() + r * kPerRow, 0,
                        stored.data() + (kernels::kBf16Rows + c) * kPerRow, 0, 1);
                if (std::memcmp(&expected, &results[c][r], sizeof(float)) != 0) return false;
            }
        }
    }
    return true;
}

}  // namespace

bool equals_ggml(kernels::Bf16Products products) {
    Bits bits;
    for (int i = 0; i < 32; ++i) {
        if (!agrees(products, bits, 110, 30)) return false;  // weights and activations
        if (!agrees(products, bits, 40, 40)) return false;   // products that vanish
        if (!agrees(products, bits, 160, 40)) return false;  // sums that overflow
    }
    return true;
}

}  // namespace apex
