// In whose memory the values of a computed tensor lie.
#pragma once

#include "core/device_memory.h"
#include "ggml-backend.h"

namespace apex {

inline bool is_on_host(const ggml_tensor* tensor) {
    const ggml_tensor* owner = tensor->view_src == nullptr ? tensor : tensor->view_src;
    return owner->buffer == nullptr || ggml_backend_buffer_is_host(owner->buffer);
}

// The GPU whose memory our kernels may read them from; -1: there is none.
inline int device_of_tensor(const ggml_tensor* tensor) {
    return is_on_host(tensor) ? -1 : device_of(tensor->data);
}

}  // namespace apex
