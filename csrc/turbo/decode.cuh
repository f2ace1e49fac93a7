// Four values of a block at once: their indices are the nibbles of a selector, and one or two byte
// permutations look all of them up.
#pragma once

#include <cuda_fp16.h>

#include "format.h"

namespace apex::turbo {

__device__ __forceinline__ uint32_t word_at(const uint8_t* bytes) {
    return *reinterpret_cast<const uint16_t*>(bytes);  // blocks and words lie on even addresses
}

// The nibbles of group g of a block.
__device__ __forceinline__ uint32_t selector(const block_turbo2& block, unsigned g) {
    return word_at(block.qs + 2 * (g / 2)) >> 2 * (g % 2) & 0x3333;
}

__device__ __forceinline__ uint32_t selector(const block_turbo3& block, unsigned g) {
    const uint32_t low = word_at(block.qs + 2 * (g / 2)) >> 2 * (g % 2);
    const uint32_t high = word_at(block.qh + 2 * (g / 4)) << 2 >> g % 4;
    return (low & 0x3333) | (high & 0x4444);
}

__device__ __forceinline__ uint32_t selector(const block_turbo4& block, unsigned g) {
    return word_at(block.qs + 2 * g);
}

// Levels of four indices, a byte each, plus an offset.
template <class Format>
constexpr uint32_t four_of_table(int first, int offset) {
    uint32_t packed = 0;
    for (int i = 0; i < 4; ++i) {
        const int value = level<Format>(first + i) + offset;
        packed |= static_cast<uint32_t>(static_cast<uint8_t>(value)) << 8 * i;
    }
    return packed;
}

template <class Format, int kFirst, int kOffset>
inline constexpr uint32_t kFour = four_of_table<Format>(kFirst, kOffset);

// The levels of group g of a block plus an offset, as four bytes.
template <class Format, int kOffset = 0>
__device__ __forceinline__ uint32_t four_bytes(const typename Format::Block& block, unsigned g) {
    const uint32_t nibbles = selector(block, g);
    constexpr uint32_t first = kFour<Format, 0, kOffset>;
    if constexpr (Format::kBits == 2) {
        return __byte_perm(first, 0, nibbles);
    } else if constexpr (Format::kBits == 3) {
        return __byte_perm(first, kFour<Format, 4, kOffset>, nibbles);
    } else {
        const uint32_t three_bits = nibbles & 0x7777;
        const uint32_t below = __byte_perm(first, kFour<Format, 4, kOffset>, three_bits);
        const uint32_t above =
            __byte_perm(kFour<Format, 8, kOffset>, kFour<Format, 12, kOffset>, three_bits);
        // A byte of ones where an index has its fourth bit.
        const uint32_t is_above = __byte_perm(0x0000ff00, 0, nibbles >> 3 & 0x1111);
        return (below & ~is_above) | (above & is_above);
    }
}

// The levels of group g of a block, as four signed bytes.
template <class Format>
__device__ __forceinline__ int four_levels(const typename Format::Block& block, unsigned g) {
    return static_cast<int>(four_bytes<Format>(block, g));
}

// Byte i of four as the float 32768 + byte: the second of a float's bytes there has steps of 1. No
// conversion, which a multiprocessor does at a fraction of the rate of these.
template <int i>
__device__ __forceinline__ float above_32768(uint32_t four) {
    return __uint_as_float(__byte_perm(four, 0x47000000, 0x7504 | i << 4));
}

template <class Format>
__device__ __forceinline__ float scale_of(const typename Format::Block& block) {
    return __half2float(__ushort_as_half(block.d));
}

}  // namespace apex::turbo
