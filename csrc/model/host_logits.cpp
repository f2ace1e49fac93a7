#include "model/host_logits.h"

#include <cstdint>

#include "llama-context.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace apex {
namespace {

// An explicit instantiation may name a private member; the friend it defines hands it out.
using LogitsMember = buffer_view<float> llama_context::*;
LogitsMember logits_member();

template <LogitsMember Member>
struct Expose {
    friend LogitsMember logits_member() { return Member; }
};
template struct Expose<&llama_context::logits>;

// Whole pages inside the buffer; where the system refuses, they stay.
void give_pages_back([[maybe_unused]] buffer_view<float> buffer) {
#if defined(__linux__)
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto address = reinterpret_cast<uintptr_t>(buffer.data);
    const uintptr_t begin = (address + page - 1) / page * page;
    const uintptr_t end = (address + buffer.size * sizeof(float)) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
#endif
}

}  // namespace

void forget_host_logits(llama_context* context, bool give_back) {
    buffer_view<float>& logits = context->*logits_member();
    if (logits.data == nullptr) return;
    if (give_back) give_pages_back(logits);
    logits.data = nullptr;
}

}  // namespace apex
