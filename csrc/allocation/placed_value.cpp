#include "allocation/placed_value.h"

#include <algorithm>

#include "core/error.h"
#include "ggml-backend.h"
#include "model/model_weights.h"

namespace apex {
namespace {

void check_shape(const Model& model, const ggml_tensor* tensor, const TensorValue& value) {
    for (size_t i = 0; i < GGML_MAX_DIMS; ++i) {
        const int64_t expected = i < value.ne.size() ? value.ne[i] : 1;
        if (tensor->ne[i] == expected) continue;
        fail<ModelError>(model.path(), ": '", value.name, "' has ", tensor->ne[i],
                         " elements where ", expected, " were expected");
    }
}

// What makes a tensor's values those of another; names and shapes stay.
void take_values(const ggml_tensor& from, ggml_tensor& to) {
    to.type = from.type;
    std::copy(std::begin(from.nb), std::end(from.nb), std::begin(to.nb));
    to.buffer = from.buffer;
    to.data = from.data;
    to.extra = from.extra;
}

}  // namespace

PlacedValue::PlacedValue(const Model& model, std::shared_ptr<const TensorValue> value)
    : value_(std::move(value)), targets_(find_weights(model, value_->name)) {
    for (const ggml_tensor* target : targets_) check_shape(model, target, *value_);
    context_.reset(ggml_init({ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
    if (!context_) fail<ModelError>("no memory for a tensor");
    tensor_ = ggml_new_tensor_3d(context_.get(), value_->type, value_->ne[0], value_->ne[1],
                                 value_->ne[2]);
    ggml_backend_buffer_type_t place = memory_for_weight(tensor_, targets_.front(), value_->name);
    const size_t size = ggml_backend_buft_get_alloc_size(place, tensor_);
    buffer_.reset(ggml_backend_buft_alloc_buffer(place, size));
    if (!buffer_) fail<ModelError>("no memory for ", size, " bytes of '", value_->name, "'");
    ggml_backend_buffer_set_usage(buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    void* base = ggml_backend_buffer_get_base(buffer_.get());
    if (ggml_backend_tensor_alloc(buffer_.get(), tensor_, base) != GGML_STATUS_SUCCESS) {
        fail<ModelError>("cannot place '", value_->name, "' in its buffer");
    }
    ggml_backend_tensor_set(tensor_, value_->bytes.data(), 0, value_->bytes.size());
}

ValueSwap::ValueSwap(const std::vector<const PlacedValue*>& values) {
    for (const PlacedValue* placed : values) {
        for (ggml_tensor* target : placed->targets()) {
            saved_.push_back({target, *target});
            take_values(*placed->tensor(), *target);
        }
    }
}

ValueSwap::~ValueSwap() {
    // Backwards: a tensor that was named twice gets its first content again.
    for (auto saved = saved_.rbegin(); saved != saved_.rend(); ++saved) {
        take_values(saved->was, *saved->target);
    }
}

bool ValueSwap::changes(const ggml_tensor* tensor) const {
    return std::any_of(saved_.begin(), saved_.end(),
                       [tensor](const Saved& saved) { return saved.target == tensor; });
}

}  // namespace apex
