// What is collected of one weight.
#pragma once

#include <cstdint>
#include <vector>

namespace apex {

struct ImatrixSums {
    int64_t n_per_row = 0;
    std::vector<double> sums;     // matrices of the weight x n_per_row
    std::vector<int64_t> counts;  // tokens of each expert; one number where nothing is routed
};

constexpr int64_t kMaxTokenCount = INT64_C(1) << 53;  // beyond it not every integer is a double

}  // namespace apex
