// Upstream's programs print through a thread that nobody waits for: one that ends sooner than its
// last lines are written loses them, and still ends with 0. Linked into the programs we compare
// with, this has them written first.

#include <cstdlib>

#include "log.h"

namespace {

[[maybe_unused]] const int registered = std::atexit([] { common_log_flush(common_log_main()); });

}  // namespace
