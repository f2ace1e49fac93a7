// Levels of a batch, one int32 lane per super-block, packed into the bit fields blocks share.
#pragma once

#include "superblocks.h"

namespace apex::kernels::APEX_ISA {

// A little-endian word of four bytes; byte(b) gives byte b as an int32 in [0, 255].
template <typename Byte>
inline I32 word_of(Byte byte) {
    return byte(0) | (byte(1) << 8) | (byte(2) << 16) | (byte(3) << 24);
}

// qs of Q2_K and Q3_K, 16 words: byte i of half h holds two bits each of weights
// 128 h + i, + 32, + 64 and + 96. Only the low two bits of a level are used.
inline void pack_two_bits(const int32_t* levels, int32_t* words) {
    for (int half = 0; half < 2; ++half) {
        for (int w = 0; w < 8; ++w) {
            I32 word = 0;
            for (int b = 0; b < 4; ++b) {
                const int32_t* at = levels + (128 * half + 4 * w + b) * kLanes;
                for (int part = 0; part < 4; ++part) {
                    const I32 low = load(at + 32 * part * kLanes) & I32(3);
                    word = word | (low << (8 * b + 2 * part));
                }
            }
            store(words + (8 * half + w) * kLanes, word);
        }
    }
}

}  // namespace apex::kernels::APEX_ISA
