// Does llama.cpp load this file and compute with it? The last question before publishing one.
#pragma once

#include <cstdint>
#include <string>

namespace apex {

struct LoadCheck {
    std::string description;  // llama.cpp's own: architecture, size, type
    uint64_t n_parameters = 0;
    int32_t n_vocab = 0;
    int32_t n_tokens = 0;  // decoded
    double mean_nll = 0;   // nats per token of the text; NaN-free by construction
};

// Loads the file on the CPU, decodes text (at most 512 tokens of it) and returns the mean negative
// log-likelihood of its tokens after the first. Throws GgufError or ModelError where the file
// is refused (with the reason) or a logit is not finite.
LoadCheck load_check(const std::string& path, const std::string& text, int n_threads);

}  // namespace apex
