#include "model/vocabulary.h"

#include <climits>
#include <stdexcept>

#include "core/abort_guard.h"
#include "core/error.h"

namespace apex {
namespace {

void check_vocabulary(const llama_vocab* vocab) {
    if (llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE) return;
    fail<ModelError>("the model has no vocabulary, so no text can be given to it");
}

// llama_tokenize asserts on this (src/llama-vocab.cpp, llama_vocab::impl::tokenize).
void check_bos(const llama_vocab* vocab) {
    if (!llama_vocab_get_add_bos(vocab) || llama_vocab_bos(vocab) != LLAMA_TOKEN_NULL) return;
    fail<ModelError>(
        "the vocabulary says that a text begins with a BOS token but names none; "
        "set tokenizer.ggml.bos_token_id or tokenizer.ggml.add_bos_token in the file");
}

// llama.cpp asserts, or throws std::out_of_range, where the vocabulary lacks a token it needs: a
// byte's, a special one.
template <class Call>
void in_vocabulary(Call&& call) {
    try {
        guarded(call);
    } catch (const Error& error) {
        fail<ModelError>("the vocabulary is not complete: ", error.what());
    } catch (const std::out_of_range&) {
        fail<ModelError>(
            "the vocabulary is not complete: it has no token for a byte of this text; convert the "
            "model again, with its byte tokens");
    }
}

}  // namespace

std::vector<llama_token> tokenize(const llama_vocab* vocab, const std::string& text,
                                  bool add_special, bool parse_special) {
    if (text.size() > INT32_MAX - 2) {
        fail<InvalidArgument>("text: expected fewer than 2^31 bytes, found ", text.size(),
                              "; split it");
    }
    check_vocabulary(vocab);
    if (add_special) check_bos(vocab);
    std::vector<llama_token> tokens(text.size() + 2);
    int32_t n = 0;
    const auto run = [&] {
        n = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                           static_cast<int32_t>(tokens.size()), add_special, parse_special);
    };
    in_vocabulary(run);
    if (n < 0) {  // a tokenizer that gives more tokens than bytes says how many
        tokens.resize(static_cast<size_t>(-static_cast<int64_t>(n)));
        in_vocabulary(run);
    }
    if (n < 0) fail<ModelError>("llama.cpp cannot tokenize this text");
    tokens.resize(static_cast<size_t>(n));
    return tokens;
}

void check_tokens(const llama_vocab* vocab, const llama_token* tokens, size_t n_tokens) {
    const int32_t n_vocab = llama_vocab_n_tokens(vocab);
    for (size_t i = 0; i < n_tokens; ++i) {
        if (tokens[i] >= 0 && tokens[i] < n_vocab) continue;
        fail<InvalidArgument>("token ", i, ": expected 0 to ", n_vocab - 1, ", found ", tokens[i]);
    }
}

std::string detokenize(const llama_vocab* vocab, const std::vector<llama_token>& tokens) {
    check_vocabulary(vocab);
    check_tokens(vocab, tokens.data(), tokens.size());
    std::string text;
    std::string piece(64, '\0');
    for (const llama_token token : tokens) {
        int32_t n = llama_token_to_piece(vocab, token, piece.data(),
                                         static_cast<int32_t>(piece.size()), 0, true);
        if (n < 0) {
            piece.resize(static_cast<size_t>(-n));
            n = llama_token_to_piece(vocab, token, piece.data(), static_cast<int32_t>(piece.size()),
                                     0, true);
        }
        if (n > 0) text.append(piece, 0, static_cast<size_t>(n));
    }
    return text;
}

std::string vocabulary_bytes(const llama_vocab* vocab) {
    std::string bytes = std::to_string(llama_vocab_type(vocab));
    if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) return bytes;
    const int32_t n_vocab = llama_vocab_n_tokens(vocab);
    for (llama_token token = 0; token < n_vocab; ++token) {
        bytes += llama_vocab_get_text(vocab, token);
        bytes.push_back('\0');
        bytes += std::to_string(llama_vocab_get_attr(vocab, token));
        bytes.push_back('\0');
    }
    return bytes;
}

std::vector<llama_token> end_tokens(const llama_vocab* vocab) {
    std::vector<llama_token> tokens;
    if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) return tokens;
    const int32_t n_vocab = llama_vocab_n_tokens(vocab);
    for (llama_token token = 0; token < n_vocab; ++token) {
        if (llama_vocab_is_eog(vocab, token)) tokens.push_back(token);
    }
    return tokens;
}

}  // namespace apex
