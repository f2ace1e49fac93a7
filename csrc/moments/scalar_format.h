// ggml's types whose weights are scale * level - minimum: how scales and levels lie in their
// blocks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ggml.h"

namespace apex {

// A type as its search sees it. A super-block of n_blocks blocks has one scale d (and one minimum
// dm) in half precision; a block multiplies them with small integers s (and m):
//
//     weight = d * s * level - dm * m
//
// Types of one block of 32 have s = 1 and no integer: d itself is what is chosen.
struct ScalarFormat {
    ggml_type type;
    int block;     // weights of a block, 16 or 32
    int n_blocks;  // of a super-block
    bool has_minimum;
    bool has_integers;
    int min_scale, max_scale;  // of s
    int max_minimum;           // of m
    int min_level, max_level;  // of uniform levels
    bool has_code_book;        // levels are those of IQ4_NL

    constexpr int super_block() const { return block * n_blocks; }
};

// The format of a type, or null where it is none of these.
const ScalarFormat* scalar_format(ggml_type type);

// The levels of IQ4_NL and IQ4_XS, rising.
extern const float kCodeBook[16];

// The parts of a super-block. Codes are levels less min_level, or places in the code book.
struct ScalarBlock {
    float d = 0, dm = 0;
    int s[16] = {};
    int m[16] = {};
    uint8_t codes[256] = {};
};

// Reads d, dm, s and m; codes stay as they are.
void read_scales(const ScalarFormat& format, const uint8_t* stored, ScalarBlock& block);

// Writes ggml_type_size(type) bytes. d and dm are exact in half precision.
void write_block(const ScalarFormat& format, const ScalarBlock& block, uint8_t* stored);

}  // namespace apex
