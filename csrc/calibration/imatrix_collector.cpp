#include "calibration/imatrix_collector.h"

namespace apex {
namespace {

constexpr int64_t kUpstreamMinRows = 16;  // tools/imatrix/imatrix.cpp, collect_imatrix

}  // namespace

ImatrixCollector::ImatrixCollector(std::shared_ptr<ThreadPool> pool, ImatrixScope scope)
    : scope_(scope), pool_(std::move(pool)), inputs_(*pool_), totals_(*pool_) {}

bool ImatrixCollector::in_scope(const MatmulNode& node) const {
    if (moments_ && !moments_->wanted().empty()) return moments_->wants(node.weight.name);
    if (scope_ == ImatrixScope::everything) return true;
    if (is_output_weight(node)) return false;
    if (scope_ == ImatrixScope::blocks || node.experts != nullptr) return true;
    return node.input->ne[1] >= kUpstreamMinRows && node.weight.name.compare(0, 4, "blk.") == 0;
}

bool ImatrixCollector::is_end(const ggml_tensor* node) const {
    return end_.known() && end_.name == node->name && node->type == GGML_TYPE_F32 &&
           node->ne[0] == end_.weight.n_per_row();
}

bool ImatrixCollector::wants(const ggml_tensor* node) {
    // A hook may set a node's flags (model/skippable_nodes.h).
    const bool is_state = border_ && border_->wants(const_cast<ggml_tensor*>(node));
    return wants_input(node) || is_state;
}

bool ImatrixCollector::wants_input(const ggml_tensor* node) {
    inputs_.forget(node);
    device_inputs_.forget(node);
    if (is_end(node)) return true;
    const std::optional<MatmulNode> matmul = as_matmul(node);
    if (!matmul || !in_scope(*matmul)) return false;
    count_graph(matmul->weight.name, node);
    if (matmul->weight.name == last_weight_) return true;
    return !add_known(*matmul);
}

void ImatrixCollector::add(const MatmulNode& node, const InputSquares& squares) {
    if (record_ != nullptr) return record_->add(node, squares);
    totals_.add(
        {node.weight.name, node.experts != nullptr},
        {squares.n_matrices(), squares.n_per_row, squares.sums.data(), squares.counts.data()});
}

void ImatrixCollector::add(const MatmulNode& node, const DeviceSlot& slot) {
    if (record_ != nullptr) return record_->add(node, slot);
    totals_.add({node.weight.name, node.experts != nullptr}, slot);
}

// The weight seen first comes once a graph: there the graph before it is done.
void ImatrixCollector::count_graph(const std::string& weight, const ggml_tensor* node) {
    if (first_weight_.empty()) first_weight_ = weight;
    if (weight != first_weight_) return;
    n_tokens_seen_ += n_tokens_of_graph_;
    n_tokens_of_graph_ = ggml_nrows(node);
}

// False where the input has to be looked at.
bool ImatrixCollector::add_known(const MatmulNode& node) {
    if (const std::optional<DeviceSlot> on_device = device_inputs_.find(node.identity)) {
        if (moments_ && !moments_->share(node.weight.name, on_device->weight)) return false;
        add(node, *on_device);
        return true;
    }
    const InputSquares* known = inputs_.find(node.identity);
    if (known == nullptr) return false;
    if (moments_ && !moments_->share(node.weight.name, known->weight)) return false;
    add(node, *known);
    return true;
}

void ImatrixCollector::compute(const MatmulNode& node) {
    check_input_layout(node);
    if (output_rows_ && is_output_weight(node)) output_rows_->add(node);
    ++n_computed_;
    if (!host_only_ && add_on_device(node)) return;
    const InputSquares& squares = inputs_.compute(node, n_computed_);
    if (moments_) moments_->add(node.weight.name, squares, inputs_.rows(), *pool_);
    add(node, squares);
}

// False where the input is the host's to add.
bool ImatrixCollector::add_on_device(const MatmulNode& node) {
    if (moments_ && !moments_->fits_device(node)) return false;
    const std::optional<DeviceSlot> slot = device_inputs_.compute(node, n_computed_);
    if (!slot) return false;
    if (moments_) moments_->add_on_device(*slot);
    add(node, *slot);
    return true;
}

// False behind the last input that is wanted of a graph, and what is recorded of it.
bool ImatrixCollector::observe(ggml_tensor* node) {
    if (border_) border_->observe(node);
    is_last_seen_ = !observe_input(node) || is_last_seen_;
    if (!is_last_seen_ || (border_ && !border_->is_recorded())) return true;
    is_last_seen_ = false;
    if (border_) border_->end_graph();
    return false;
}

// False for the last input.
bool ImatrixCollector::observe_input(ggml_tensor* node) {
    if (is_end(node)) {
        const MatmulNode output = make_matmul(end_.weight, node);
        if (in_scope(output)) compute(output);
        return false;
    }
    const std::optional<MatmulNode> matmul = as_matmul(node);
    if (!matmul || !in_scope(*matmul)) return true;
    const bool is_last = matmul->weight.name == last_weight_;
    if (!is_last || !add_known(*matmul)) compute(*matmul);
    return !is_last;
}

}  // namespace apex
