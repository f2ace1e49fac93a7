// Does llama.cpp survive this file? Asked of a child process: settings that contradict each other
// make its loader divide by zero, read where nothing is or abort, and then only the child ends.
#pragma once

#include <memory>
#include <string>

#include "model/stop_flag.h"

namespace apex {

// What a model can do, as llama.cpp answers.
struct ModelTraits {
    bool vocabulary = false;  // tokens have texts
    bool encoder = false;     // a text goes through an encoder first
    bool decoder = false;
    bool next_token =
        false;            // reads from left to right and remembers: gives the next token's logits
    bool pooled = false;  // made to give one vector for a text
};

struct TrialOptions {
    bool vocab_only = false;  // then only vocabulary, encoder and decoder are answered
    bool load_mtp = false;
    int expert_used_count = 0;  // 0: the file's own
};

// Loads a checked file without its weights and builds its graphs, in a child process; once for
// each file and options, then from memory. path: the first shard.
// Throws ModelError with llama.cpp's reason, or saying that it would have ended the process;
// Cancelled.
ModelTraits trial_load(const std::string& path, const std::string& architecture,
                       const TrialOptions& options, const std::shared_ptr<const StopFlag>& stop);

}  // namespace apex
