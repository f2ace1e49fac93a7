#include "core/log.h"

#include <deque>
#include <mutex>

namespace apex {
namespace {

constexpr size_t kMaxLines = 1000;

std::mutex log_mutex;
std::deque<LogLine> log_lines;
LogLine open_line{GGML_LOG_LEVEL_NONE, ""};

void close_line() {
    log_lines.push_back(std::move(open_line));
    open_line = {GGML_LOG_LEVEL_NONE, ""};
    if (log_lines.size() > kMaxLines) log_lines.pop_front();
}

}  // namespace

void log_sink(ggml_log_level level, const char* text, void*) {
    const std::lock_guard<std::mutex> lock(log_mutex);
    if (level != GGML_LOG_LEVEL_CONT && level != GGML_LOG_LEVEL_NONE) open_line.level = level;
    for (const char* c = text; *c != '\0'; ++c) {
        if (*c == '\n') {
            close_line();
        } else {
            open_line.text.push_back(*c);
        }
    }
}

std::vector<LogLine> drain_log() {
    const std::lock_guard<std::mutex> lock(log_mutex);
    std::vector<LogLine> lines(log_lines.begin(), log_lines.end());
    log_lines.clear();
    return lines;
}

}  // namespace apex
