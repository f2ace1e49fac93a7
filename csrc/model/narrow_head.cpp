#include "model/narrow_head.h"

#include <algorithm>

#include "core/error.h"
#include "ggml-backend.h"
#include "llama-model.h"

namespace apex {
namespace {

constexpr int64_t kRows = 32;

}  // namespace

NarrowHead::NarrowHead(llama_model* model, ggml_backend_buffer_type_t place)
    : model_(model), was_(model->output) {
    if (was_ == nullptr || model->output_b != nullptr) {
        fail<ModelError>("this architecture's output has ",
                         was_ == nullptr ? "no matrix" : "a bias",
                         "; its logits cannot be computed apart from it");
    }
    context_.reset(ggml_init({ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
    if (!context_) fail<ModelError>("no memory for a tensor");
    ggml_tensor* rows =
        ggml_new_tensor_2d(context_.get(), was_->type, was_->ne[0], std::min(kRows, was_->ne[1]));
    ggml_set_name(rows, was_->name);
    if (place == nullptr) {
        rows->buffer = was_->buffer;
    } else {
        buffer_.reset(ggml_backend_alloc_ctx_tensors_from_buft(context_.get(), place));
        if (!buffer_) fail<ModelError>("no memory for a few rows of the output");
        ggml_backend_buffer_set_usage(buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        ggml_backend_buffer_clear(buffer_.get(), 0);
    }
    model_->output = rows;
}

NarrowHead::~NarrowHead() {
    model_->output = was_;
}

}  // namespace apex
