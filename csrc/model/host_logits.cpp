#include "model/host_logits.h"

#include "ggml-backend.h"
#include "llama-context.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#define APEX_HAS_MMAP 1
#endif

namespace apex {
namespace {

// An explicit instantiation may name a private member; the friend it defines hands it out.
using LogitsMember = buffer_view<float> llama_context::*;
LogitsMember logits_member();
template <LogitsMember Member>
struct ExposeLogits {
    friend LogitsMember logits_member() { return Member; }
};
template struct ExposeLogits<&llama_context::logits>;

using BufferMember = ggml_backend_buffer_ptr llama_context::*;
BufferMember buffer_member();
template <BufferMember Member>
struct ExposeBuffer {
    friend BufferMember buffer_member() { return Member; }
};
template struct ExposeBuffer<&llama_context::buf_output>;

}  // namespace

HostLogits::~HostLogits() {
#ifdef APEX_HAS_MMAP
    if (begin_ != nullptr) munmap(begin_, size_);
#endif
}

void HostLogits::replace_buffer([[maybe_unused]] llama_context* context,
                                [[maybe_unused]] size_t bytes) {
#ifdef APEX_HAS_MMAP
    void* begin = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (begin == MAP_FAILED) return;
    begin_ = begin;
    size_ = bytes;
    (context->*buffer_member()).reset(ggml_backend_cpu_buffer_from_ptr(begin, bytes));
#endif
}

void HostLogits::forget(llama_context* context) const {
    (context->*logits_member()).data = nullptr;
}

}  // namespace apex
