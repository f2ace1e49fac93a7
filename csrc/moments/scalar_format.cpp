#include "moments/scalar_format.h"

#include <cstring>
#include <iterator>

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

// Where d lies in a block, and dm 2 bytes behind it (ggml-common.h).
size_t place_of_d(ggml_type type) {
    switch (type) {
        case GGML_TYPE_Q2_K:
            return 80;
        case GGML_TYPE_Q3_K:
            return 108;
        case GGML_TYPE_Q6_K:
            return 208;
        default:
            return 0;
    }
}

float read_half(const uint8_t* stored) {
    ggml_fp16_t half;
    std::memcpy(&half, stored, sizeof(half));
    return ggml_fp16_to_fp32(half);
}

void write_half(float value, uint8_t* stored) {
    const ggml_fp16_t half = ggml_fp32_to_fp16(value);
    std::memcpy(stored, &half, sizeof(half));
}

// get_scale_min_k4 of ggml-quants.c
void read_six_bits(const uint8_t* q, int j, int& s, int& m) {
    s = j < 4 ? q[j] & 63 : (q[j + 4] & 15) | ((q[j - 4] >> 6) << 4);
    m = j < 4 ? q[j + 4] & 63 : (q[j + 4] >> 4) | ((q[j] >> 6) << 4);
}

void write_six_bits(const ScalarBlock& block, uint8_t* q) {
    for (int j = 0; j < 4; ++j) {
        q[j] = static_cast<uint8_t>(block.s[j] | (block.s[j + 4] >> 4) << 6);
        q[j + 4] = static_cast<uint8_t>(block.m[j] | (block.m[j + 4] >> 4) << 6);
        q[j + 8] = static_cast<uint8_t>((block.s[j + 4] & 15) | (block.m[j + 4] & 15) << 4);
    }
}

void or_into(uint8_t& byte, int bits) {
    byte = static_cast<uint8_t>(byte | bits);
}

// Two bits of each code: 128 weights are four planes over 32 bytes.
void write_two_bits(const uint8_t* codes, uint8_t* q) {
    for (int i = 0; i < 256; ++i) {
        or_into(q[i / 128 * 32 + i % 32], (codes[i] & 3) << (i / 32 % 4 * 2));
    }
}

void write_q2_k(const ScalarBlock& block, uint8_t* stored) {
    for (int j = 0; j < 16; ++j) {
        stored[j] = static_cast<uint8_t>(block.s[j] | block.m[j] << 4);
    }
    write_two_bits(block.codes, stored + 16);
}

void write_q3_k(const ScalarBlock& block, uint8_t* stored) {
    for (int j = 0; j < 16; ++j) {
        const int s = block.s[j] + 32;
        or_into(stored[96 + j % 8], (s & 15) << (j / 8 * 4));
        or_into(stored[104 + j % 4], (s >> 4) << (j / 4 * 2));
    }
    write_two_bits(block.codes, stored + 32);
    for (int i = 0; i < 256; ++i) or_into(stored[i % 32], (block.codes[i] >> 2) << (i / 32));
}

void write_nibbles(const uint8_t* codes, int half, uint8_t* q) {
    for (int i = 0; i < half; ++i) {
        q[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + half] & 15) << 4);
    }
}

void write_q4_k(const ScalarBlock& block, uint8_t* stored) {
    write_six_bits(block, stored + 4);
    for (int j = 0; j < 4; ++j) write_nibbles(block.codes + 64 * j, 32, stored + 16 + 32 * j);
}

void write_q5_k(const ScalarBlock& block, uint8_t* stored) {
    write_six_bits(block, stored + 4);
    for (int j = 0; j < 4; ++j) write_nibbles(block.codes + 64 * j, 32, stored + 48 + 32 * j);
    for (int i = 0; i < 256; ++i) or_into(stored[16 + i % 32], (block.codes[i] >> 4) << (i / 32));
}

void write_q6_k(const ScalarBlock& block, uint8_t* stored) {
    for (int j = 0; j < 16; ++j) stored[192 + j] = static_cast<uint8_t>(block.s[j]);
    for (int i = 0; i < 256; ++i) {
        const int half = i / 128, plane = i / 32 % 4, code = block.codes[i];
        or_into(stored[half * 64 + plane % 2 * 32 + i % 32], (code & 15) << (plane / 2 * 4));
        or_into(stored[128 + half * 32 + i % 32], (code >> 4) << (plane * 2));
    }
}

void write_iq4_xs(const ScalarBlock& block, uint8_t* stored) {
    for (int j = 0; j < 8; ++j) {
        const int s = block.s[j] + 32;
        or_into(stored[4 + j / 2], (s & 15) << (j % 2 * 4));
        or_into(stored[2 + j / 4], (s >> 4) << (j % 4 * 2));
        write_nibbles(block.codes + 32 * j, 16, stored + 8 + 16 * j);
    }
}

void write_q5_0(const ScalarBlock& block, uint8_t* stored) {
    for (int i = 0; i < 32; ++i) or_into(stored[2 + i / 8], (block.codes[i] >> 4) << (i % 8));
    write_nibbles(block.codes, 16, stored + 6);
}

void write_q8_0(const ScalarBlock& block, uint8_t* stored) {
    for (int i = 0; i < 32; ++i) stored[2 + i] = static_cast<uint8_t>(block.codes[i] - 127);
}

void write_codes(ggml_type type, const ScalarBlock& block, uint8_t* stored) {
    switch (type) {
        case GGML_TYPE_Q2_K:
            return write_q2_k(block, stored);
        case GGML_TYPE_Q3_K:
            return write_q3_k(block, stored);
        case GGML_TYPE_Q4_K:
            return write_q4_k(block, stored);
        case GGML_TYPE_Q5_K:
            return write_q5_k(block, stored);
        case GGML_TYPE_Q6_K:
            return write_q6_k(block, stored);
        case GGML_TYPE_IQ4_XS:
            return write_iq4_xs(block, stored);
        case GGML_TYPE_Q5_0:
            return write_q5_0(block, stored);
        case GGML_TYPE_Q8_0:
            return write_q8_0(block, stored);
        default:  // Q4_0, IQ4_NL
            return write_nibbles(block.codes, 16, stored + 2);
    }
}

}  // namespace

const ScalarFormat* scalar_format(ggml_type type) {
    for (const ScalarFormat& format : kFormats) {
        if (format.type == type) return &format;
    }
    return nullptr;
}

void read_scales(const ScalarFormat& format, const uint8_t* stored, ScalarBlock& block) {
    const size_t place = place_of_d(format.type);
    block.d = read_half(stored + place);
    block.dm = format.has_minimum ? read_half(stored + place + 2) : 0.0f;
    for (int j = 0; j < format.n_blocks; ++j) {
        block.s[j] = 1;
        switch (format.type) {
            case GGML_TYPE_Q2_K:
                block.s[j] = stored[j] & 15;
                block.m[j] = stored[j] >> 4;
                break;
            case GGML_TYPE_Q4_K:
            case GGML_TYPE_Q5_K:
                read_six_bits(stored + 4, j, block.s[j], block.m[j]);
                break;
            case GGML_TYPE_Q3_K:
                block.s[j] = ((stored[96 + j % 8] >> (j / 8 * 4) & 15) |
                              (stored[104 + j % 4] >> (j / 4 * 2) & 3) << 4) -
                             32;
                break;
            case GGML_TYPE_Q6_K:
                block.s[j] = static_cast<int8_t>(stored[192 + j]);
                break;
            case GGML_TYPE_IQ4_XS:
                block.s[j] = ((stored[4 + j / 2] >> (j % 2 * 4) & 15) |
                              (stored[2 + j / 4] >> (j % 4 * 2) & 3) << 4) -
                             32;
                break;
            default:
                break;
        }
    }
}

void write_block(const ScalarFormat& format, const ScalarBlock& block, uint8_t* stored) {
    std::memset(stored, 0, ggml_type_size(format.type));
    const size_t place = place_of_d(format.type);
    write_half(block.d, stored + place);
    if (format.has_minimum) write_half(block.dm, stored + place + 2);
    write_codes(format.type, block, stored);
}

}  // namespace apex
