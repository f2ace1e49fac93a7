// The logits that llama.cpp copies to the host after every computation: not here.
#pragma once

#include <cstddef>

struct llama_context;

namespace apex {

// Address space in the place of the buffer that llama.cpp would fill with logits: n_vocab floats an
// output, pinned where the model is on a GPU, all of it cleared. Nothing of it is in memory as long
// as nobody writes there. Where the system has no such space the context keeps its own buffer.
class HostLogits {
  public:
    // Must outlive the context.
    HostLogits() = default;
    ~HostLogits();
    HostLogits(const HostLogits&) = delete;
    HostLogits& operator=(const HostLogits&) = delete;

    // A buffer that is large enough is never replaced (src/llama-context.cpp, output_reserve).
    void replace_buffer(llama_context* context, size_t bytes);

    // Skips the copy of the logits that are being computed. To be called inside llama_decode, after
    // it reserved its output buffer and before it looks for logits to copy: from the eval callback.
    // llama.cpp has no setting for it and the pinned source is not patched, so this reaches for a
    // private member, as replace_buffer does; the compiler checks that they are what they were.
    void forget(llama_context* context) const;

  private:
    void* begin_ = nullptr;
    size_t size_ = 0;
};

}  // namespace apex
