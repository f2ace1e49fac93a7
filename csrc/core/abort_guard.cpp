#include "core/abort_guard.h"

#include <cstdio>
#include <mutex>
#include <string>

#include "ggml.h"

namespace apex {
namespace {

thread_local int guard_depth = 0;

// "path:line: GGML_ASSERT(n > 0) failed" says to a user: its check 'n > 0' failed.
std::string reason(const std::string& message) {
    const std::string mark = "GGML_ASSERT(", end = ") failed";
    const size_t begin = message.find(mark);
    if (begin != std::string::npos) {
        const size_t first = begin + mark.size();
        return "its check '" + message.substr(first, message.rfind(end) - first) + "' failed";
    }
    const size_t line = message.find(": ");
    return "it gave up: " + (line == std::string::npos ? message : message.substr(line + 2));
}

void on_abort(const char* message) {
    if (guard_depth > 0) throw GgmlAbort(reason(message));
    std::fprintf(stderr, "ggml: %s\n", message);  // and ggml ends the process
}

}  // namespace

void install_abort_hook() {
    static std::once_flag once;
    std::call_once(once, [] { ggml_set_abort_callback(on_abort); });
}

AbortGuard::AbortGuard() {
    install_abort_hook();
    ++guard_depth;
}

AbortGuard::~AbortGuard() {
    --guard_depth;
}

}  // namespace apex
