#include "calibration/input_moments.h"

#include <algorithm>

#include "calibration/imatrix_sums.h"
#include "calibration/output_input.h"
#include "core/error.h"
#include "moments/products.h"

namespace apex {
namespace {

void add_counts(const std::string& input, const std::vector<int64_t>& counts,
                std::vector<int64_t>& totals) {
    for (size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] > kMaxTokenCount - totals[i]) fail<ModelError>(input, ": too many tokens");
        totals[i] += counts[i];
    }
}

// Rows of a matrix's triangle from begin to end, their diagonal taken from exact squares: those of
// the importance matrix, added in its order.
void add_tile(const float* const* rows, size_t n_rows, int64_t n, int64_t begin, int64_t end,
              const double* squares, double* total, double* part) {
    double before[2][kProductTile];
    for (int64_t i = begin; i < end; ++i) {
        const int64_t at = packed_size(i) + i;
        before[0][i - begin] = total[at];
        before[1][i - begin] = part == nullptr ? 0.0 : part[at];
    }
    add_products(rows, n_rows, n, begin, end, total, part);
    for (int64_t i = begin; i < end; ++i) {
        const int64_t at = packed_size(i) + i;
        total[at] = before[0][i - begin] + squares[i];
        if (part != nullptr) part[at] = before[1][i - begin] + squares[i];
    }
}

}  // namespace

std::vector<KnownInput> inputs_of(ggml_cgraph* graph) {
    std::vector<KnownInput> result;
    std::vector<InputIdentity> identities;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const std::optional<MatmulNode> node = as_matmul(ggml_graph_node(graph, i));
        if (!node) continue;
        const auto known = std::find(identities.begin(), identities.end(), node->identity);
        const auto at = static_cast<size_t>(known - identities.begin());
        if (known == identities.end()) {
            identities.push_back(node->identity);
            result.push_back({{}, node->weight.n_per_row(), node->weight.n_matrices()});
        }
        result[at].weights.push_back(node->weight.name);
    }
    return result;
}

std::string last_of(ggml_cgraph* graph, const std::set<std::string>& weights) {
    std::string last;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const std::optional<MatmulNode> node = as_matmul(ggml_graph_node(graph, i));
        if (!node || weights.count(node->weight.name) == 0) continue;
        last = is_output_weight(*node) ? std::string() : node->weight.name;
    }
    return last;
}

InputMoment& InputMoments::moment_for(const std::string& input, const InputSquares& squares) {
    InputMoment& moment = moments_[input];
    const size_t n_matrices = squares.counts.size();
    if (moment.n_per_row == 0) {
        moment.n_per_row = squares.n_per_row;
        const size_t size = n_matrices * static_cast<size_t>(packed_size(squares.n_per_row));
        moment.total.assign(size, 0.0);
        moment.part.assign(size, 0.0);
        moment.counts.assign(n_matrices, 0);
        moment.part_counts.assign(n_matrices, 0);
    }
    if (moment.n_per_row != squares.n_per_row || moment.counts.size() != n_matrices) {
        fail<ModelError>(input, ": its second moment was collected from another model");
    }
    return moment;
}

void InputMoments::add(const std::string& weight, const InputSquares& squares,
                       const SortedRows& rows, ThreadPool& pool) {
    const std::string& input = input_of_.emplace(weight, weight).first->second;
    if (input != weight) return;  // added when its owner was seen
    InputMoment& moment = moment_for(input, squares);
    const int64_t n = squares.n_per_row, packed = packed_size(n);
    const int64_t n_tiles = (n + kProductTile - 1) / kProductTile;
    pool.run([&](int thread, int n_threads) {
        for (int64_t matrix = 0; matrix < moment.n_matrices(); ++matrix) {
            const size_t first = rows.first[static_cast<size_t>(matrix)];
            const size_t count = rows.first[static_cast<size_t>(matrix) + 1] - first;
            if (count == 0) continue;
            double* part = in_part_ ? moment.part.data() + matrix * packed : nullptr;
            for (int64_t tile = 0; tile < n_tiles; ++tile) {
                if ((matrix + tile) % n_threads != thread) continue;
                const int64_t begin = tile * kProductTile;
                add_tile(rows.data + first, count, n, begin, std::min(begin + kProductTile, n),
                         squares.sums.data() + matrix * n, moment.total.data() + matrix * packed,
                         part);
            }
        }
    });
    add_counts(input, squares.counts, moment.counts);
    if (in_part_) add_counts(input, squares.counts, moment.part_counts);
}

bool InputMoments::share(const std::string& weight, const std::string& first) {
    const auto owner = input_of_.find(first);
    if (owner == input_of_.end()) return false;
    return input_of_.emplace(weight, owner->second).first->second == owner->second;
}

void InputMoments::restore(const std::string& input, InputMoment moment) {
    const size_t n_matrices = moment.counts.size();
    const size_t size = n_matrices * static_cast<size_t>(packed_size(moment.n_per_row));
    if (moment.n_per_row < 1 || moment.total.size() != size || moment.part.size() != size ||
        moment.part_counts.size() != n_matrices) {
        fail<InvalidArgument>(input, ": second moments and counts do not go together");
    }
    moments_[input] = std::move(moment);
    input_of_[input] = input;
}

void InputMoments::restore_share(const std::string& weight, const std::string& input) {
    if (moments_.count(input) == 0) {
        fail<InvalidArgument>(weight, ": there is no second moment of ", input);
    }
    input_of_[weight] = input;
}

}  // namespace apex
