// Text continued by the model itself: deterministic for a seed.
#pragma once

#include <cstdint>
#include <vector>

#include "model/context.h"

namespace apex {

struct SamplingOptions {
    int32_t n_predict = 256;   // tokens at most; ends earlier at an end-of-generation token
    float temperature = 0.8f;  // 0: always the likeliest token
    int32_t top_k = 40;        // 0: all
    float top_p = 0.95f;
    uint32_t seed = 0;
};

// Returns the new tokens, the one that ended it included. Clears the context's memory first.
// Throws InvalidArgument where the prompt is empty or does not fit.
std::vector<llama_token> generate(Context& context, const std::vector<llama_token>& prompt,
                                  const SamplingOptions& options);

}  // namespace apex
