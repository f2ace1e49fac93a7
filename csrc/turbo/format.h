// The formats of turbo.h as types, for code that is written once for all of them.
#pragma once

#include "turbo.h"

namespace apex::turbo {

struct Turbo2 {
    using Block = block_turbo2;
    static constexpr int kBits = 2;
    static constexpr float kSigma = TURBO2_SIGMA;
    static constexpr int8_t kLevels[] = {TURBO2_LEVELS};
    static constexpr float kEnds[] = {TURBO2_ENDS};
};

struct Turbo3 {
    using Block = block_turbo3;
    static constexpr int kBits = 3;
    static constexpr float kSigma = TURBO3_SIGMA;
    static constexpr int8_t kLevels[] = {TURBO3_LEVELS};
    static constexpr float kEnds[] = {TURBO3_ENDS};
};

struct Turbo4 {
    using Block = block_turbo4;
    static constexpr int kBits = 4;
    static constexpr float kSigma = TURBO4_SIGMA;
    static constexpr int8_t kLevels[] = {TURBO4_LEVELS};
    static constexpr float kEnds[] = {TURBO4_ENDS};
};

template <class Format>
inline constexpr int kHalf = 1 << (Format::kBits - 1);  // levels above zero

static_assert(sizeof(block_turbo2) == 18 && sizeof(block_turbo3) == 26 &&
              sizeof(block_turbo4) == 34);
static_assert(sizeof(Turbo2::kLevels) == kHalf<Turbo2> &&
              sizeof(Turbo3::kLevels) == kHalf<Turbo3> && sizeof(Turbo4::kLevels) == kHalf<Turbo4>);

// The signed level of an index.
template <class Format>
constexpr int8_t level(int index) {
    constexpr int half = kHalf<Format>;
    return index < half ? static_cast<int8_t>(-Format::kLevels[half - 1 - index])
                        : Format::kLevels[index - half];
}

}  // namespace apex::turbo
