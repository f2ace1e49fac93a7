#include "tasks/log_prob_hook.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "model/lm_head.h"
#include "model/tensor_place.h"
#include "scoring/softmax.h"

namespace apex {
namespace {

// Fewer exponentials than this take less time than waking threads for them.
constexpr size_t kLogitsForThreads = size_t{1} << 18;

// Rows fetched from a device at once: 16 MiB.
constexpr size_t kFetchedLogits = size_t{1} << 22;

}  // namespace

void LogProbHook::expect(std::vector<Row> rows, double* log_probs) {
    rows_ = std::move(rows);
    next_row_ = 0;
    log_probs_ = log_probs;
}

bool LogProbHook::wants(const ggml_tensor* node) {
    return std::strcmp(node->name, kLogitsName) == 0;
}

bool LogProbHook::observe(ggml_tensor* node) {
    const auto n_rows = static_cast<size_t>(node->ne[1]);
    if (node->type != GGML_TYPE_F32 || node->ne[0] != n_vocab_ || !ggml_is_contiguous(node) ||
        n_rows > rows_.size() - next_row_) {
        fail<ModelError>("the model's logits have an unexpected shape or type: ", node->ne[0],
                         " x ", node->ne[1], " ", ggml_type_name(node->type), ", expected ",
                         n_vocab_, " x at most ", rows_.size() - next_row_, " f32");
    }
    if (is_on_host(node)) {
        take_rows(static_cast<const float*>(node->data), n_rows);
        return true;
    }
    const size_t row_size = static_cast<size_t>(n_vocab_);
    const size_t n_fetched = std::max<size_t>(1, kFetchedLogits / row_size);
    for (size_t first = 0; first < n_rows; first += n_fetched) {
        const size_t n = std::min(n_fetched, n_rows - first);
        fetched_.resize(n * row_size);
        ggml_backend_tensor_get(node, fetched_.data(), first * row_size * sizeof(float),
                                n * row_size * sizeof(float));
        take_rows(fetched_.data(), n);
    }
    return true;
}

void LogProbHook::take_rows(const float* logits, size_t n_rows) {
    const auto take = [this, logits, n_rows](int begin, int step) {
        for (auto i = static_cast<size_t>(begin); i < n_rows; i += static_cast<size_t>(step)) {
            const float* values = logits + i * static_cast<size_t>(n_vocab_);
            take_row(values, rows_[next_row_ + i]);
        }
    };
    if (n_rows * static_cast<size_t>(n_vocab_) > kLogitsForThreads) {
        pool_->run(take);
    } else {
        take(0, 1);
    }
    next_row_ += n_rows;
}

void LogProbHook::take_row(const float* values, const Row& row) const {
    const llama_token first = row.terms[0].token;
    const SoftmaxScore score = score_row(values, n_vocab_, first);
    const double normalizer = values[first] + score.nll;
    for (size_t i = 0; i < row.n_terms; ++i) {
        log_probs_[row.terms[i].term] =
            score.is_finite ? values[row.terms[i].token] - normalizer : std::nan("");
    }
}

}  // namespace apex
