#include "model/panel_self_test.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#include "ggml-cpu.h"
#include "ggml.h"
#include "model/random_bits.h"

namespace apex {
namespace {

constexpr int64_t kPerRow = 768;  // three super-blocks: no power of two hides a wrong order
constexpr int64_t kRows = 35;     // more than are unpacked together, and no multiple of a tile
constexpr int64_t kMatrices = 3;
constexpr int64_t kColumns = 19;  // a panel, and one that is not full
constexpr int64_t kSlots = 2;
constexpr size_t kMemory = 2 << 20;

class Bits {
  public:
    uint8_t next() { return static_cast<uint8_t>(random_.next() >> 56); }

  private:
    RandomBits random_;
};

// Any codes and scales; the factors, F16 values at the begin or the end of a block, of any finite
// magnitude.
void fill_weights(ggml_tensor* tensor, Bits& bits) {
    auto* bytes = static_cast<uint8_t*>(tensor->data);
    const size_t block_bytes = ggml_type_size(tensor->type);
    for (size_t i = 0; i < ggml_nbytes(tensor); ++i) bytes[i] = bits.next();
    for (size_t begin = 0; begin < ggml_nbytes(tensor); begin += block_bytes) {
        for (const size_t high_byte :
             {begin + 1, begin + 3, begin + block_bytes - 3, begin + block_bytes - 1}) {
            const int exponent = bits.next() % 31;
            bytes[high_byte] = static_cast<uint8_t>((bytes[high_byte] & 0x83) | exponent << 2);
        }
    }
}

void fill_inputs(ggml_tensor* tensor, Bits& bits) {
    auto* values = static_cast<float*>(tensor->data);
    for (int64_t i = 0; i < ggml_nelements(tensor); ++i) {
        const float mantissa = 1.0f + static_cast<float>(bits.next()) / 256.0f;
        const int exponent = bits.next() % 24 - 16;
        values[i] = std::ldexp(bits.next() % 2 == 0 ? mantissa : -mantissa, exponent);
    }
}

// A tenth of the columns goes to the last matrix: fewer than a panel begins with.
void fill_ids(ggml_tensor* tensor, Bits& bits) {
    auto* ids = static_cast<int32_t*>(tensor->data);
    for (int64_t i = 0; i < ggml_nelements(tensor); ++i) ids[i] = bits.next() < 26 ? 2 : i % 2;
}

void append(Samples& samples, const ggml_tensor* tensor) {
    const auto* values = static_cast<const float*>(tensor->data);
    samples.insert(samples.end(), values, values + ggml_nelements(tensor));
}

}  // namespace

Samples sample_products(ggml_type type) {
    Bits bits;
    const std::unique_ptr<ggml_context, void (*)(ggml_context*)> context(
        ggml_init({kMemory, nullptr, false}), &ggml_free);
    ggml_context* c = context.get();
    ggml_tensor* weights = ggml_new_tensor_2d(c, type, kPerRow, kRows);
    ggml_tensor* inputs = ggml_new_tensor_2d(c, GGML_TYPE_F32, kPerRow, kColumns);
    ggml_tensor* experts = ggml_new_tensor_3d(c, type, kPerRow, kRows, kMatrices);
    ggml_tensor* tokens = ggml_new_tensor_3d(c, GGML_TYPE_F32, kPerRow, 1, kColumns);
    ggml_tensor* ids = ggml_new_tensor_2d(c, GGML_TYPE_I32, kSlots, kColumns);
    fill_weights(weights, bits);
    fill_weights(experts, bits);
    fill_inputs(inputs, bits);
    fill_inputs(tokens, bits);
    fill_ids(ids, bits);
    ggml_tensor* plain = ggml_mul_mat(c, weights, inputs);
    ggml_tensor* routed = ggml_mul_mat_id(c, experts, tokens, ids);
    ggml_cgraph* graph = ggml_new_graph(c);
    ggml_build_forward_expand(graph, plain);
    ggml_build_forward_expand(graph, routed);
    Samples samples;
    if (ggml_graph_compute_with_ctx(c, graph, 1) != GGML_STATUS_SUCCESS) return samples;
    append(samples, plain);
    append(samples, routed);
    return samples;
}

bool same_bits(const Samples& a, const Samples& b) {
    return !a.empty() && a.size() == b.size() &&
           std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace apex
