#include "moments/scalar_format.h"

#include <cstring>
#include <iterator>

#include "moments/scalar_bits.h"

namespace apex {

// ggml-common.h, kvalues_iq4nl
const float kCodeBook[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                             1,    13,   25,  38,  53,  69,  89,  113};

namespace {

constexpr ScalarFormat kFormats[] = {
    {GGML_TYPE_Q2_K, 16, 16, true, true, 0, 15, 15, 0, 3, false},
    {GGML_TYPE_Q3_K, 16, 16, false, true, -32, 31, 0, -4, 3, false},
    {GGML_TYPE_Q4_K, 32, 8, true, true, 0, 63, 63, 0, 15, false},
    {GGML_TYPE_Q5_K, 32, 8, true, true, 0, 63, 63, 0, 31, false},
    {GGML_TYPE_Q6_K, 16, 16, false, true, -128, 127, 0, -32, 31, false},
    {GGML_TYPE_IQ4_XS, 32, 8, false, true, -32, 31, 0, 0, 15, true},
    {GGML_TYPE_IQ4_NL, 32, 1, false, false, 1, 1, 0, 0, 15, true},
    {GGML_TYPE_Q4_0, 32, 1, false, false, 1, 1, 0, -8, 7, false},
    {GGML_TYPE_Q5_0, 32, 1, false, false, 1, 1, 0, -16, 15, false},
    {GGML_TYPE_Q8_0, 32, 1, false, false, 1, 1, 0, -127, 127, false},
};

float read_half(const uint8_t* stored) {
    ggml_fp16_t half;
    std::memcpy(&half, stored, sizeof(half));
    return ggml_fp16_to_fp32(half);
}

void write_half(float value, uint8_t* stored) {
    const ggml_fp16_t half = ggml_fp32_to_fp16(value);
    std::memcpy(stored, &half, sizeof(half));
}

}  // namespace

const ScalarFormat* scalar_format(ggml_type type) {
    for (const ScalarFormat& format : kFormats) {
        if (format.type == type) return &format;
    }
    return nullptr;
}

void read_scales(const ScalarFormat& format, const uint8_t* stored, ScalarBlock& block) {
    const size_t place = scalar_bits::place_of_d(format.type);
    block.d = read_half(stored + place);
    block.dm = format.has_minimum ? read_half(stored + place + 2) : 0.0f;
    for (int j = 0; j < format.n_blocks; ++j) {
        scalar_bits::read_integers(format.type, stored, j, block.s[j], block.m[j]);
    }
}

void write_block(const ScalarFormat& format, const ScalarBlock& block, uint8_t* stored) {
    std::memset(stored, 0, ggml_type_size(format.type));
    const size_t place = scalar_bits::place_of_d(format.type);
    write_half(block.d, stored + place);
    if (format.has_minimum) write_half(block.dm, stored + place + 2);
    scalar_bits::write_codes(format.type, block, stored);
}

}  // namespace apex
