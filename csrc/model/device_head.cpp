#include "model/device_head.h"

#include "core/error.h"

namespace apex {

DeviceHead::DeviceHead(const LmHead& head, ggml_backend_dev_t device)
    : recipe_(head.recipe()), n_embd_(head.n_embd()), device_(device) {
    const std::vector<LmHead::Weight>& weights = head.weights();
    weights_context_.reset(ggml_init({weights.size() * ggml_tensor_overhead(), nullptr, true}));
    if (!weights_context_) fail<DeviceError>("ggml cannot make the tensors of the head");
    for (const LmHead::Weight& weight : weights) {
        weights_.push_back(
            weight.data == nullptr
                ? nullptr
                : ggml_new_tensor(weights_context_.get(), weight.type, 4, weight.ne.data()));
    }
}

std::unique_ptr<DeviceHead> DeviceHead::make(const LmHead& head, ggml_backend_dev_t device) {
    std::unique_ptr<DeviceHead> made(new DeviceHead(head, device));
    made->build(1);
    if (!made->is_supported()) return nullptr;
    const ggml_backend_buffer_type_t place = ggml_backend_dev_buffer_type(device);
    made->backend_.reset(ggml_backend_dev_init(device, nullptr));
    made->weights_buffer_.reset(
        ggml_backend_alloc_ctx_tensors_from_buft(made->weights_context_.get(), place));
    made->allocator_.reset(ggml_gallocr_new(place));
    if (!made->backend_ || !made->weights_buffer_ || !made->allocator_) {
        fail<DeviceError>(ggml_backend_dev_name(device), " has no room for the head of ",
                          head.path());
    }
    for (size_t i = 0; i < made->weights_.size(); ++i) {
        ggml_tensor* weight = made->weights_[i];
        if (weight == nullptr) continue;
        ggml_backend_tensor_set(weight, head.weights()[i].data, 0, ggml_nbytes(weight));
    }
    made->n_ = 0;
    return made;
}

bool DeviceHead::is_supported() {
    for (int i = 0; i < ggml_graph_n_nodes(graph_); ++i) {
        if (!ggml_backend_dev_supports_op(device_, ggml_graph_node(graph_, i))) return false;
    }
    return true;
}

void DeviceHead::build(int64_t n) {
    const size_t n_tensors = 1 + 2 * recipe_.steps.size();
    const size_t size =
        n_tensors * ggml_tensor_overhead() + ggml_graph_overhead_custom(n_tensors, false);
    graph_context_.reset(ggml_init({size, nullptr, true}));
    if (!graph_context_) fail<DeviceError>("ggml cannot make a graph of the head");
    hidden_ = ggml_new_tensor_2d(graph_context_.get(), GGML_TYPE_F32, n_embd_, n);
    ggml_set_input(hidden_);
    logits_ = build_head(graph_context_.get(), recipe_, weights_, hidden_);
    ggml_set_output(logits_);
    graph_ = ggml_new_graph_custom(graph_context_.get(), n_tensors, false);
    ggml_build_forward_expand(graph_, logits_);
    n_ = n;
}

const float* DeviceHead::compute(const float* hidden, int64_t n) {
    if (n != n_) {
        build(n);
        if (!ggml_gallocr_alloc_graph(allocator_.get(), graph_)) {
            n_ = 0;
            fail<DeviceError>(ggml_backend_dev_name(device_), " has no room for ", n,
                              " rows of logits; lower `n_ubatch`");
        }
    }
    ggml_backend_tensor_set(hidden_, hidden, 0, ggml_nbytes(hidden_));
    if (ggml_backend_graph_compute(backend_.get(), graph_) != GGML_STATUS_SUCCESS) {
        fail<DeviceError>(ggml_backend_dev_name(device_), " cannot compute the head");
    }
    return static_cast<const float*>(logits_->data);
}

}  // namespace apex
