#include "scoring/logit_rows.h"

#include "core/device_memory.h"
#include "core/error.h"
#include "ggml-backend.h"
#include "model/tensor_place.h"

namespace apex {

void LogitRows::take(const ggml_tensor* node, const std::string& model) {
    if (node->type != GGML_TYPE_F32 || node->ne[0] != n_vocab_ || !ggml_is_contiguous(node)) {
        fail<ModelError>(model, ": expected rows of ", n_vocab_, " F32 logits, found ",
                         ggml_type_name(node->type), " rows of ", node->ne[0]);
    }
    n_ = ggml_nrows(node);
    if (n_ == 0) return;  // no token of the batch is an output
    device_ = device_of_tensor(node);
    if (device_ >= 0 || is_on_host(node)) {
        // llama.cpp marks the node as an output: nothing else is put there before the next decode.
        rows_ = static_cast<const float*>(node->data);
    } else {
        copy_.resize(static_cast<size_t>(ggml_nelements(node)));
        ggml_backend_tensor_get(node, copy_.data(), 0, ggml_nbytes(node));
        rows_ = copy_.data();
    }
}

void LogitRows::set(const float* rows, int64_t n, int device) {
    rows_ = rows;
    n_ = n;
    device_ = device;
}

void LogitRows::bring_to_host() {
    if (device_ < 0) return;
    copy_.resize(static_cast<size_t>(n_ * n_vocab_));
    copy_to_host(copy_.data(), rows_, copy_.size() * sizeof(float));
    set(copy_.data(), n_, -1);
}

}  // namespace apex
