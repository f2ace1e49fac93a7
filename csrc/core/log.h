// One sink for llama.cpp's and ggml's messages: fragments joined into lines, kept in a ring.
#pragma once

#include <string>
#include <vector>

#include "ggml.h"

namespace apex {

struct LogLine {
    int level;  // ggml_log_level
    std::string text;
};

// The callback for ggml_log_set and llama_log_set. Never calls into Python: messages come from any
// thread, whole or in fragments.
void log_sink(ggml_log_level level, const char* text, void* unused);

// Lines since the last call, oldest first; the oldest are dropped when nobody asks.
std::vector<LogLine> drain_log();

}  // namespace apex
