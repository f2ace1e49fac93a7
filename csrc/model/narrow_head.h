// A model whose graphs end at the hidden state: its head is there in name only.
#pragma once

#include "ggml-cpp.h"
#include "llama.h"

namespace apex {

// As long as it lives, the model's output matrix is a few rows of zeros: graphs have every node
// they had, and logits of a few columns that mean nothing. Logits of thousands of tokens at once,
// a quarter of a million columns each, would take more memory than all the rest.
class NarrowHead {
  public:
    // place: the memory of those rows; null: where the output is, without memory for it (a model
    // that was loaded to add up memory). Throws ModelError where the architecture needs the whole
    // width.
    NarrowHead(llama_model* model, ggml_backend_buffer_type_t place);
    ~NarrowHead();
    NarrowHead(const NarrowHead&) = delete;
    NarrowHead& operator=(const NarrowHead&) = delete;

  private:
    llama_model* model_;
    ggml_tensor* was_;
    ggml_context_ptr context_;
    ggml_backend_buffer_ptr buffer_;
};

}  // namespace apex
