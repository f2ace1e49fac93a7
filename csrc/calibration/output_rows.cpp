#include "calibration/output_rows.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "ggml-backend.h"
#include "moments/products.h"

namespace apex {
namespace {

constexpr int64_t kBlock = 128;

// Sums of p (1 - p) over each group's tokens.
void weigh(const float* logits, const std::vector<int32_t>& groups, double* weights) {
    const auto n = static_cast<int64_t>(groups.size());
    const float most = *std::max_element(logits, logits + n);
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += std::exp(double(logits[i] - most));
    for (int64_t i = 0; i < n; ++i) {
        const double p = std::exp(double(logits[i] - most)) / sum;
        weights[groups[static_cast<size_t>(i)]] += p * (1.0 - p);
    }
}

class Adder {
  public:
    Adder(const OutputRows& rows, int n_groups, GroupMoments& result)
        : rows_(rows), n_groups_(n_groups), result_(result) {
        const auto size = static_cast<size_t>(n_groups * packed_size(rows.n_per_row()));
        for (GroupMoments::Half* half : {&result.part, &result.rest}) {
            half->sums.assign(size, 0.0);
            half->weights.assign(static_cast<size_t>(n_groups), 0.0);
        }
    }

    // Rows from first on, all of the part or none; weights: rows x groups.
    void add(int64_t first, int64_t n_rows, int group, const std::vector<double>& weights) {
        const int64_t n = rows_.n_per_row(), packed = packed_size(n);
        GroupMoments::Half& half = rows_.is_part(first) ? result_.part : result_.rest;
        std::vector<float> scaled;
        std::vector<const float*> pointers;
        for (int64_t i = 0; i < n_rows; ++i) {
            const double weight = weights[static_cast<size_t>(i * n_groups_ + group)];
            const auto root = static_cast<float>(std::sqrt(weight));
            for (int64_t j = 0; j < n; ++j) scaled.push_back(root * rows_.row(first + i)[j]);
            half.weights[static_cast<size_t>(group)] += weight;
        }
        for (int64_t i = 0; i < n_rows; ++i) pointers.push_back(scaled.data() + i * n);
        for (int64_t begin = 0; begin < n; begin += kProductTile) {
            add_products(pointers.data(), pointers.size(), n, begin,
                         std::min(begin + kProductTile, n), half.sums.data() + group * packed);
        }
    }

  private:
    const OutputRows& rows_;
    int n_groups_;
    GroupMoments& result_;
};

}  // namespace

void OutputRows::add(const MatmulNode& node) {
    const ggml_tensor* input = node.input;
    const int64_t n = input->ne[0], n_rows = ggml_nrows(input);
    if (input->type != GGML_TYPE_F32 || !ggml_is_contiguous(input) ||
        (n_per_row_ != 0 && n_per_row_ != n)) {
        fail<ModelError>(node.weight.name, ": its input cannot be read");
    }
    n_per_row_ = n;
    const size_t before = values_.size();
    values_.resize(before + static_cast<size_t>(n * n_rows));
    ggml_backend_tensor_get(input, values_.data() + before, 0,
                            static_cast<size_t>(n * n_rows) * sizeof(float));
    is_part_.resize(is_part_.size() + static_cast<size_t>(n_rows), in_part_ ? 1 : 0);
}

GroupMoments group_moments(const LmHead& head, const OutputRows& rows,
                           const std::vector<int32_t>& groups, int n_groups, ThreadPool& pool) {
    if (head.n_embd() != rows.n_per_row() ||
        head.n_vocab() != static_cast<int64_t>(groups.size())) {
        fail<InvalidArgument>("inputs of ", rows.n_per_row(), " and ", groups.size(),
                              " rows in groups, the head has ", head.n_vocab(), " of ",
                              head.n_embd());
    }
    GroupMoments result;
    Adder adder(rows, n_groups, result);
    std::vector<float> logits(static_cast<size_t>(kBlock * head.n_vocab()));
    std::vector<double> weights;
    for (int64_t first = 0; first < rows.n_rows();) {
        int64_t count = 1;
        while (count < kBlock && first + count < rows.n_rows() &&
               rows.is_part(first + count) == rows.is_part(first)) {
            ++count;
        }
        head.compute(rows.row(first), count, logits.data(), pool);
        weights.assign(static_cast<size_t>(count * n_groups), 0.0);
        pool.run([&](int thread, int n_threads) {
            for (int64_t i = thread; i < count; i += n_threads) {
                weigh(logits.data() + i * head.n_vocab(), groups, weights.data() + i * n_groups);
            }
        });
        pool.run([&](int thread, int n_threads) {
            for (int group = thread; group < n_groups; group += n_threads) {
                adder.add(first, count, group, weights);
            }
        });
        first += count;
    }
    return result;
}

}  // namespace apex
