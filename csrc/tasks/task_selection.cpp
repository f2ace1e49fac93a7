#include "tasks/task_selection.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "core/error.h"

namespace apex {
namespace {

constexpr uint32_t kSeed = 1;

std::vector<uint32_t> all_indices(uint32_t n_items, uint32_t n) {
    if (n > n_items) {
        fail<InvalidArgument>("cannot draw ", n, " of ", n_items, " items");
    }
    std::vector<uint32_t> indices(n_items);
    std::iota(indices.begin(), indices.end(), 0u);
    return indices;
}

uint32_t uniform_below(std::mt19937& rng, uint32_t n) {
    uint64_t product = static_cast<uint64_t>(static_cast<uint32_t>(rng())) * n;
    auto low = static_cast<uint32_t>(product);
    if (low < n) {
        const uint32_t threshold = -n % n;  // 2^32 mod n
        while (low < threshold) {
            product = static_cast<uint64_t>(static_cast<uint32_t>(rng())) * n;
            low = static_cast<uint32_t>(product);
        }
    }
    return static_cast<uint32_t>(product >> 32);
}

}  // namespace

std::vector<uint32_t> draw_uniform(uint32_t n_items, uint32_t n) {
    std::vector<uint32_t> left = all_indices(n_items, n);
    std::vector<uint32_t> drawn;
    std::mt19937 rng(kSeed);
    for (uint32_t i = 0; i < n; ++i) {
        const auto place = left.begin() + uniform_below(rng, static_cast<uint32_t>(left.size()));
        drawn.push_back(*place);
        left.erase(place);
    }
    return drawn;
}

std::vector<uint32_t> draw_scaled(uint32_t n_items, uint32_t n) {
    std::vector<uint32_t> left = all_indices(n_items, n);
    std::vector<uint32_t> drawn;
    std::mt19937 rng(kSeed);
    const float scale = 1.0f / 4294967296.0f;
    for (uint32_t i = 0; i < n; ++i) {
        const float product = scale * static_cast<float>(rng()) * static_cast<float>(left.size());
        const size_t place = std::min(static_cast<size_t>(product), left.size() - 1);
        drawn.push_back(left[place]);
        left[place] = left.back();
        left.pop_back();
    }
    return drawn;
}

}  // namespace apex
