#include "model/host_logits.h"

#include "llama-context.h"

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

}  // namespace

void forget_host_logits(llama_context* context) {
    (context->*logits_member()).data = nullptr;
}

}  // namespace apex
