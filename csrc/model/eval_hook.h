// A look at the tensors of a running computation: llama.cpp's eval callback as an interface.
#pragma once

#include "ggml.h"

namespace apex {

// Both methods run inside llama_decode, on the thread that called Context::decode. Either may
// throw: the computation ends and the exception leaves Context::decode.
class EvalHook {
  public:
    virtual ~EvalHook() = default;

    // Shall observe() see this node? Asked of every node of the graph before it is computed, so
    // it has to be quick. Each node seen ends a part of the graph: the backend synchronises.
    virtual bool wants(const ggml_tensor* node) = 0;

    // The node and its sources are computed; node->data may lie on a device. Returning false skips
    // the rest of the current part of the graph (on one backend: all that follows).
    virtual bool observe(ggml_tensor* node) = 0;
};

}  // namespace apex
