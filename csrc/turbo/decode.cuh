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

// Levels of four indices, a byte each.
template <class Format>
constexpr uint32_t four_of_table(int first) {
    uint32_t packed = 0;
    for (int i = 0; i < 4; ++i) {
        packed |= static_cast<uint32_t>(static_cast<uint8_t>(level<Format>(first + i))) << 8 * i;
    }
    return packed;
}

template <class Format, int kFirst>
inline constexpr uint32_t kFourLevels = four_of_table<Format>(kFirst);

// The levels of group g of a block, as four signed bytes.
template <class Format>
__device__ __forceinline__ int four_levels(const typename Format::Block& block, unsigned g) {
    const uint32_t nibbles = selector(block, g);
    if constexpr (Format::kBits == 2) {
        return static_cast<int>(__byte_perm(kFourLevels<Format, 0>, 0, nibbles));
    } else if constexpr (Format::kBits == 3) {
        return static_cast<int>(
            __byte_perm(kFourLevels<Format, 0>, kFourLevels<Format, 4>, nibbles));
    } else {
        const uint32_t three_bits = nibbles & 0x7777;
        const uint32_t below =
            __byte_perm(kFourLevels<Format, 0>, kFourLevels<Format, 4>, three_bits);
        const uint32_t above =
            __byte_perm(kFourLevels<Format, 8>, kFourLevels<Format, 12>, three_bits);
        // A byte of ones where an index has its fourth bit.
        const uint32_t is_above = __byte_perm(0x0000ff00, 0, nibbles >> 3 & 0x1111);
        return static_cast<int>((below & ~is_above) | (above & is_above));
    }
}

template <class Format>
__device__ __forceinline__ float scale_of(const typename Format::Block& block) {
    return __half2float(__ushort_as_half(block.d));
}

}  // namespace apex::turbo
