#include "core/abort_guard.h"

#include <cstdio>
#include <mutex>

#include "ggml.h"

namespace apex {
namespace {

thread_local int guard_depth = 0;

void on_abort(const char* message) {
    if (guard_depth > 0) throw GgmlAbort(message);
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
