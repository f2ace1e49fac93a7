// ggml ends the process when an assertion fails. Inside guarded(), it throws instead.
#pragma once

#include <string>
#include <utility>

#include "core/error.h"

namespace apex {

// What ggml_abort said, without the place in its source, thrown on the thread that called
// guarded().
struct GgmlAbort : Error {
    using Error::Error;
};

// Installs the hook once; safe to call from any thread and often.
void install_abort_hook();

class AbortGuard {
  public:
    AbortGuard();
    ~AbortGuard();
    AbortGuard(const AbortGuard&) = delete;
    AbortGuard& operator=(const AbortGuard&) = delete;
};

// Runs work so that a failed GGML_ASSERT on this thread becomes GgmlAbort. Only for leaf code that
// holds no lock and owns no memory while it asserts: the quantizers and dequantizers of
// ggml-quants.c. They are C, compiled with -fexceptions, so the exception has a way out. Everything
// known to assert is checked beforehand (checks.h); this is the net below the checks.
template <class Work>
void guarded(Work&& work) {
    const AbortGuard guard;
    std::forward<Work>(work)();
}

}  // namespace apex
