// The order of every sum over a vocabulary, on the CPU and on a GPU: entry i is added to lane i
// % 16.
#pragma once

#include <cstdint>

namespace apex::kernels {

inline constexpr int kSoftmaxLanes = 16;

// Of n entries, those that fill whole lanes; the rest is computed padded.
constexpr int64_t whole_lanes(int64_t n) {
    return n / kSoftmaxLanes * kSoftmaxLanes;
}

// n with its rest padded.
constexpr int64_t padded_lanes(int64_t n) {
    return whole_lanes(n + kSoftmaxLanes - 1);
}

}  // namespace apex::kernels
