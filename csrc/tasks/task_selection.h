// Which items of a task file are asked: the two ways llama-perplexity draws them.
#pragma once

#include <cstdint>
#include <vector>

namespace apex {

// n of n_items different indices, in the order drawn. Both begin with std::mt19937(1), whose
// numbers the C++ standard fixes. Throw InvalidArgument where n > n_items.

// As for HellaSwag: the next index among those left, uniformly, by Lemire's multiplication with
// rejection ("Fast Random Integer Generation in an Interval", 2019), which is what libstdc++'s
// uniform_int_distribution has done since GCC 11. Ours, so that other C++ libraries draw the same.
std::vector<uint32_t> draw_uniform(uint32_t n_items, uint32_t n);

// As for Winogrande and multiple choice: the index is float(random) * 2^-32 * n_left in float, and
// the last one left takes the place of the one drawn. A product that rounds up to n_left, where
// upstream reads past the end, means the last.
std::vector<uint32_t> draw_scaled(uint32_t n_items, uint32_t n);

}  // namespace apex
