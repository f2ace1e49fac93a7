// Does llama.cpp load this file and compute with it? The last question before publishing one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace apex {

struct LoadCheck {
    std::string description;  // llama.cpp's own: architecture, size, type
    std::string kind;         // "language model", "encoder-decoder" or "encoder"
    uint64_t n_parameters = 0;
    int32_t n_vocab = 0;
    int32_t n_tokens = 0;            // computed
    std::optional<double> mean_nll;  // nats per token of the text; none where there is no text
    bool all_outputs_equal = false;  // every logit (or embedding) of a position is the same
};

// Loads the file on the CPU and computes text, at most 512 tokens of it: the logits of a language
// model, those of an encoder-decoder's decoder after its encoder, the embeddings of a model without
// logits. mean_nll is over the tokens after the first; a model without a vocabulary computes
// made-up tokens and has none. Throws GgufError or ModelError where the file is refused (with the
// reason) or an output is not finite.
LoadCheck load_check(const std::string& path, const std::string& text, int n_threads);

}  // namespace apex
