// Which numbers a moment is made of, on a GPU.
#pragma once

#include <cstdint>

namespace apex::cuda {

// One moment as moments/moment_source.h means it: sums over tokens of all, the part or the rest,
// blended with the layer's mean, its off-diagonal elements shrunk.
struct MomentRecipe {
    const float* total;
    const float* part;
    const double* layer;  // the layer's mean of the same part; null: a matrix by itself
    bool takes_total, less_part;
    double layer_tokens, tokens, kept;
};

}  // namespace apex::cuda
