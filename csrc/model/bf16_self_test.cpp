#include "model/bf16_self_test.h"

#include <cstring>
#include <vector>

#include "ggml-cpu.h"
#include "model/random_bits.h"

namespace apex {
namespace {

constexpr int64_t kPerRow = 224;  // seven steps: no power of two hides a wrong order
constexpr int kColumns = 4;       // one more than a kernel takes at once

class Bits {
  public:
    uint16_t next() { return static_cast<uint16_t>(random_.next() >> 48); }

  private:
    RandomBits random_;
};

// A sign, a mantissa of any bits, an exponent from lowest on.
uint16_t value(Bits& bits, ggml_type type, int lowest, int n_exponents) {
    const uint16_t random = bits.next();
    const int exponent = lowest + bits.next() % n_exponents;
    const int n_mantissa = type == GGML_TYPE_F16 ? 10 : 7;
    const int kept = 0x8000 | ((1 << n_mantissa) - 1);
    return static_cast<uint16_t>((random & kept) | exponent << n_mantissa);
}

bool agrees(kernels::Bf16Products products, ggml_type type, Bits& bits, int lowest,
            int n_exponents) {
    constexpr int kAll = kernels::kBf16Rows + kColumns;
    std::vector<uint16_t> stored(kAll * kPerRow);
    std::vector<float> floats(kAll * kPerRow);
    for (uint16_t& stored_value : stored) stored_value = value(bits, type, lowest, n_exponents);
    ggml_get_type_traits(type)->to_float(stored.data(), floats.data(), kAll * kPerRow);
    const float* columns[kColumns];
    float results[kColumns][kernels::kBf16Rows];
    float* outputs[kColumns];
    for (int c = 0; c < kColumns; ++c) {
        columns[c] = floats.data() + (kernels::kBf16Rows + c) * kPerRow;
        outputs[c] = results[c];
    }
    const auto vec_dot = ggml_get_type_traits_cpu(type)->vec_dot;
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

bool equals_ggml(kernels::Bf16Products products, ggml_type type) {
    Bits bits;
    const bool is_f16 = type == GGML_TYPE_F16;
    for (int i = 0; i < 32; ++i) {
        // Weights and activations.
        if (!agrees(products, type, bits, is_f16 ? 4 : 110, is_f16 ? 16 : 30)) return false;
        // Products that vanish; of F16 values that are not normal.
        if (!agrees(products, type, bits, is_f16 ? 0 : 40, is_f16 ? 2 : 40)) return false;
        // Sums that overflow; of F16 the largest values.
        if (!agrees(products, type, bits, is_f16 ? 20 : 160, is_f16 ? 11 : 40)) return false;
    }
    return true;
}

}  // namespace apex
