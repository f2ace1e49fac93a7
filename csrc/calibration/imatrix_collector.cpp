#include "calibration/imatrix_collector.h"

#include <algorithm>

#include "calibration/squared_columns.h"
#include "core/error.h"

namespace apex {
namespace {

constexpr int64_t kUpstreamMinRows = 16;   // tools/imatrix/imatrix.cpp, collect_imatrix
constexpr size_t kThreadedSums = 1 << 16;  // worth waking the other threads for

void add_matrices(const InputSquares& squares, size_t first, size_t last, ImatrixSums& entry) {
    for (size_t i = first; i < last; ++i) {
        if (squares.counts[i] == 0) continue;
        const size_t begin = i * static_cast<size_t>(squares.n_per_row);
        add_sums(squares.sums.data() + begin, 0, squares.n_per_row, entry.sums.data() + begin);
    }
}

void add_count(const std::string& weight, int64_t count, int64_t& total) {
    if (count > kMaxTokenCount - total) fail<ModelError>(weight, ": more than 2^53 tokens");
    total += count;
}

}  // namespace

ImatrixCollector::ImatrixCollector(std::shared_ptr<ThreadPool> pool, ImatrixScope scope)
    : scope_(scope), pool_(std::move(pool)), inputs_(*pool_) {}

bool ImatrixCollector::in_scope(const MatmulNode& node) const {
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
    inputs_.forget(node);
    device_inputs_.forget(node);
    if (is_end(node)) return true;
    const std::optional<MatmulNode> matmul = as_matmul(node);
    if (!matmul || !in_scope(*matmul)) return false;
    if (device_inputs_.add_known(*matmul, entry_of(*matmul))) return false;
    const InputSquares* known = inputs_.find(matmul->identity);
    if (known == nullptr) return true;
    add(*matmul, *known);
    return false;
}

const ImatrixSums* ImatrixCollector::entry_of(const MatmulNode& node) const {
    const auto found = entries_.find(node.weight.name);
    return found == entries_.end() ? nullptr : &found->second;
}

void ImatrixCollector::compute(const MatmulNode& node) {
    check_input_layout(node);
    if (!host_only_ && device_inputs_.compute_and_add(node, entry_of(node))) return;
    add(node, inputs_.compute(node));
}

bool ImatrixCollector::observe(ggml_tensor* node) {
    if (is_end(node)) {
        const MatmulNode output = make_matmul(end_.weight, node);
        if (in_scope(output)) compute(output);
        return false;
    }
    const std::optional<MatmulNode> matmul = as_matmul(node);
    if (matmul) compute(*matmul);
    return true;
}

void ImatrixCollector::add(const MatmulNode& node, const InputSquares& squares) {
    const bool routed = node.experts != nullptr;
    device_inputs_.drop_total(node.weight.name, entries_);
    ImatrixSums& entry = entries_[node.weight.name];
    if (entry.sums.empty()) {
        entry.n_per_row = squares.n_per_row;
        entry.sums.assign(squares.sums.size(), 0.0);
        entry.counts.assign(routed ? squares.counts.size() : 1, 0);
    }
    if (entry.n_per_row != squares.n_per_row || entry.sums.size() != squares.sums.size() ||
        (routed && entry.counts.size() != squares.counts.size())) {
        fail<ModelError>(node.weight.name, ": collected as ", entry.counts.size(), " x ",
                         entry.n_per_row, " before, now it is ", squares.counts.size(), " x ",
                         squares.n_per_row, "; was this matrix collected from another model?");
    }
    const size_t n_matrices = squares.counts.size();
    if (squares.sums.size() < kThreadedSums) {
        add_matrices(squares, 0, n_matrices, entry);
    } else {
        pool_->run([&](int thread, int n_threads) {
            const auto i = static_cast<size_t>(thread), n = static_cast<size_t>(n_threads);
            add_matrices(squares, n_matrices * i / n, n_matrices * (i + 1) / n, entry);
        });
    }
    // As upstream counts: a weight that is not routed has one count, rows by matrix.
    for (size_t i = 0; i < entry.counts.size(); ++i) {
        add_count(node.weight.name, routed ? squares.counts[i] : squares.counts[0],
                  entry.counts[i]);
    }
}

void ImatrixCollector::restore(const std::string& weight, ImatrixSums sums) {
    const auto n_sums = static_cast<int64_t>(sums.sums.size());
    const auto n_counts = static_cast<int64_t>(sums.counts.size());
    const bool whole = sums.n_per_row > 0 && n_sums > 0 && n_sums % sums.n_per_row == 0;
    if (!whole || (n_counts != 1 && n_counts != n_sums / sums.n_per_row)) {
        fail<InvalidArgument>(weight, ": ", n_sums, " sums of rows of ", sums.n_per_row, " and ",
                              n_counts, " counts do not go together");
    }
    for (const int64_t count : sums.counts) {
        if (count < 0 || count > kMaxTokenCount) {
            fail<InvalidArgument>(weight, ": a count of ", count);
        }
    }
    device_inputs_.drop_total(weight, entries_);
    entries_[weight] = std::move(sums);
}

const std::map<std::string, ImatrixSums>& ImatrixCollector::entries() const {
    device_inputs_.read_totals(entries_);
    return entries_;
}

}  // namespace apex
