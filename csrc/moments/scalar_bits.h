// Where the bits of a scalar format lie in a super-block (ggml-common.h), for either compiler. Not
// for the searches, which are compiled once per instruction set and may share no symbol.
#pragma once

#include <cstddef>
#include <cstdint>

#include "moments/scalar_format.h"

#if defined(__CUDACC__)
#define APEX_BITS __host__ __device__ inline
#else
#define APEX_BITS inline
#endif

namespace apex {

namespace scalar_bits {

// Where d lies in a block, and dm 2 bytes behind it.
APEX_BITS size_t place_of_d(ggml_type type) {
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

// get_scale_min_k4 of ggml-quants.c
APEX_BITS void read_six_bits(const uint8_t* q, int j, int& s, int& m) {
    s = j < 4 ? q[j] & 63 : (q[j + 4] & 15) | ((q[j - 4] >> 6) << 4);
    m = j < 4 ? q[j + 4] & 63 : (q[j + 4] >> 4) | ((q[j] >> 6) << 4);
}

// s and m of block j; m stays where the format has none.
APEX_BITS void read_integers(ggml_type type, const uint8_t* stored, int j, int& s, int& m) {
    s = 1;
    switch (type) {
        case GGML_TYPE_Q2_K:
            s = stored[j] & 15;
            m = stored[j] >> 4;
            break;
        case GGML_TYPE_Q4_K:
        case GGML_TYPE_Q5_K:
            read_six_bits(stored + 4, j, s, m);
            break;
        case GGML_TYPE_Q3_K:
            s = ((stored[96 + j % 8] >> (j / 8 * 4) & 15) | (stored[104 + j % 4] >> (j / 4 * 2) & 3)
                                                                << 4) -
                32;
            break;
        case GGML_TYPE_Q6_K:
            s = static_cast<int8_t>(stored[192 + j]);
            break;
        case GGML_TYPE_IQ4_XS:
            s = ((stored[4 + j / 2] >> (j % 2 * 4) & 15) | (stored[2 + j / 4] >> (j % 4 * 2) & 3)
                                                               << 4) -
                32;
            break;
        default:
            break;
    }
}

APEX_BITS void write_six_bits(const ScalarBlock& block, uint8_t* q) {
    for (int j = 0; j < 4; ++j) {
        q[j] = static_cast<uint8_t>(block.s[j] | (block.s[j + 4] >> 4) << 6);
        q[j + 4] = static_cast<uint8_t>(block.m[j] | (block.m[j + 4] >> 4) << 6);
        q[j + 8] = static_cast<uint8_t>((block.s[j + 4] & 15) | (block.m[j + 4] & 15) << 4);
    }
}

APEX_BITS void or_into(uint8_t& byte, int bits) {
    byte = static_cast<uint8_t>(byte | bits);
}

// Two bits of each code: 128 weights are four planes over 32 bytes.
APEX_BITS void write_two_bits(const uint8_t* codes, uint8_t* q) {
    for (int i = 0; i < 256; ++i) {
        or_into(q[i / 128 * 32 + i % 32], (codes[i] & 3) << (i / 32 % 4 * 2));
    }
}

APEX_BITS void write_q2_k(const ScalarBlock& block, uint8_t* stored) {
    for (int j = 0; j < 16; ++j) {
        stored[j] = static_cast<uint8_t>(block.s[j] | block.m[j] << 4);
    }
    write_two_bits(block.codes, stored + 16);
}

APEX_BITS void write_q3_k(const ScalarBlock& block, uint8_t* stored) {
    for (int j = 0; j < 16; ++j) {
        const int s = block.s[j] + 32;
        or_into(stored[96 + j % 8], (s & 15) << (j / 8 * 4));
        or_into(stored[104 + j % 4], (s >> 4) << (j / 4 * 2));
    }
    write_two_bits(block.codes, stored + 32);
    for (int i = 0; i < 256; ++i) or_into(stored[i % 32], (block.codes[i] >> 2) << (i / 32));
}

APEX_BITS void write_nibbles(const uint8_t* codes, int half, uint8_t* q) {
    for (int i = 0; i < half; ++i) {
        q[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + half] & 15) << 4);
    }
}

APEX_BITS void write_q4_k(const ScalarBlock& block, uint8_t* stored) {
    write_six_bits(block, stored + 4);
    for (int j = 0; j < 4; ++j) write_nibbles(block.codes + 64 * j, 32, stored + 16 + 32 * j);
}

APEX_BITS void write_q5_k(const ScalarBlock& block, uint8_t* stored) {
    write_six_bits(block, stored + 4);
    for (int j = 0; j < 4; ++j) write_nibbles(block.codes + 64 * j, 32, stored + 48 + 32 * j);
    for (int i = 0; i < 256; ++i) or_into(stored[16 + i % 32], (block.codes[i] >> 4) << (i / 32));
}

APEX_BITS void write_q6_k(const ScalarBlock& block, uint8_t* stored) {
    for (int j = 0; j < 16; ++j) stored[192 + j] = static_cast<uint8_t>(block.s[j]);
    for (int i = 0; i < 256; ++i) {
        const int half = i / 128, plane = i / 32 % 4, code = block.codes[i];
        or_into(stored[half * 64 + plane % 2 * 32 + i % 32], (code & 15) << (plane / 2 * 4));
        or_into(stored[128 + half * 32 + i % 32], (code >> 4) << (plane * 2));
    }
}

APEX_BITS void write_iq4_xs(const ScalarBlock& block, uint8_t* stored) {
    for (int j = 0; j < 8; ++j) {
        const int s = block.s[j] + 32;
        or_into(stored[4 + j / 2], (s & 15) << (j % 2 * 4));
        or_into(stored[2 + j / 4], (s >> 4) << (j % 4 * 2));
        write_nibbles(block.codes + 32 * j, 16, stored + 8 + 16 * j);
    }
}

APEX_BITS void write_q5_0(const ScalarBlock& block, uint8_t* stored) {
    for (int i = 0; i < 32; ++i) or_into(stored[2 + i / 8], (block.codes[i] >> 4) << (i % 8));
    write_nibbles(block.codes, 16, stored + 6);
}

APEX_BITS void write_q8_0(const ScalarBlock& block, uint8_t* stored) {
    for (int i = 0; i < 32; ++i) stored[2 + i] = static_cast<uint8_t>(block.codes[i] - 127);
}

// Everything but d and dm, into zeros.
APEX_BITS void write_codes(ggml_type type, const ScalarBlock& block, uint8_t* stored) {
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

}  // namespace scalar_bits
}  // namespace apex
