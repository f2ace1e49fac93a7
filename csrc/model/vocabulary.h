// Text to tokens and back, with the checks llama.cpp's tokenizer makes by aborting.
#pragma once

#include <string>
#include <vector>

#include "llama.h"

namespace apex {

// add_special: with the tokens a model wants around a text (BOS); parse_special: text that spells a
// special token becomes that token. Throws InvalidArgument where text is longer than 2^31 - 1
// bytes, ModelError where the vocabulary wants a BOS token it does not name.
std::vector<llama_token> tokenize(const llama_vocab* vocab, const std::string& text,
                                  bool add_special, bool parse_special);

// The bytes of the tokens, special ones as they are spelled. Throws InvalidArgument for a token
// outside the vocabulary.
std::string detokenize(const llama_vocab* vocab, const std::vector<llama_token>& tokens);

// Throws InvalidArgument naming the first token outside the vocabulary.
void check_tokens(const llama_vocab* vocab, const llama_token* tokens, size_t n_tokens);

// All tokens' texts and attributes as one string of bytes: equal for equal vocabularies.
std::string vocabulary_bytes(const llama_vocab* vocab);

// The tokens that end a generation.
std::vector<llama_token> end_tokens(const llama_vocab* vocab);

}  // namespace apex
