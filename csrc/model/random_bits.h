// Bits for self-tests: any will do, the same every time.
#pragma once

#include <cstdint>

namespace apex {

// xorshift64* (Vigna 2016); the high bits are the better ones.
class RandomBits {
  public:
    uint64_t next() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return state_ * UINT64_C(2685821657736338717);
    }

  private:
    uint64_t state_ = 42;
};

}  // namespace apex
