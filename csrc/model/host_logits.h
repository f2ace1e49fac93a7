// Keeps llama_decode from copying logits to the host.
#pragma once

#include "llama.h"

namespace apex {

// To be called inside llama_decode, after it reserved its output buffer and before the graph is
// computed: the copy is skipped where the buffer's pointer is null (src/llama-context.cpp, decode).
// llama.cpp has no setting for it and the pinned source is not patched, so this reaches for a
// private member; the type of that member is checked by the compiler. give_back: the buffer is
// plain memory, whose pages, which llama.cpp has filled with zeros, go back to the system.
void forget_host_logits(llama_context* context, bool give_back);

}  // namespace apex
