#include "model/log_prob_hook.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/log_sum_exp.h"
#include "core/worker_group.h"
#include "ggml-backend.h"

namespace apex {
namespace {

// Name of the last node in the graphs of all architectures (src/models of llama.cpp).
constexpr const char* kLogits = "result_output";

// Fewer exponentials than this take less time than starting threads for them.
constexpr size_t kLogitsPerThread = size_t{1} << 21;

// Rows fetched from a device at once: 16 MiB.
constexpr size_t kFetchedLogits = size_t{1} << 22;

}  // namespace

void LogProbHook::expect(std::vector<Row> rows, double* log_probs) {
    rows_ = std::move(rows);
    next_row_ = 0;
    log_probs_ = log_probs;
}

bool LogProbHook::wants(const ggml_tensor* node) {
    return std::strcmp(node->name, kLogits) == 0;
}

bool LogProbHook::observe(ggml_tensor* node) {
    const auto n_rows = static_cast<size_t>(node->ne[1]);
    if (node->type != GGML_TYPE_F32 || node->ne[0] != n_vocab_ || !ggml_is_contiguous(node) ||
        n_rows > rows_.size() - next_row_) {
        fail<ModelError>("the model's logits have an unexpected shape or type: ", node->ne[0],
                         " x ", node->ne[1], " ", ggml_type_name(node->type), ", expected ",
                         n_vocab_, " x at most ", rows_.size() - next_row_, " f32");
    }
    ggml_backend_buffer_t buffer = node->view_src ? node->view_src->buffer : node->buffer;
    if (buffer == nullptr || ggml_backend_buffer_is_host(buffer)) {
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
    const auto take = [this, logits](size_t i) {
        const Row& row = rows_[next_row_ + i];
        const float* values = logits + i * static_cast<size_t>(n_vocab_);
        const double normalizer = log_sum_exp(values, n_vocab_);
        for (size_t t = 0; t < row.n_terms; ++t) {
            log_probs_[row.terms[t].term] = values[row.terms[t].token] - normalizer;
        }
    };
    const size_t n_logits = n_rows * static_cast<size_t>(n_vocab_);
    const auto n_threads = std::min(static_cast<size_t>(n_threads_), n_logits / kLogitsPerThread);
    if (n_threads > 1) {
        WorkerGroup workers(static_cast<int>(n_threads), static_cast<int64_t>(n_rows), [&take] {
            return [&take](int64_t i) { take(static_cast<size_t>(i)); };
        });
        workers.join();
    } else {
        for (size_t i = 0; i < n_rows; ++i) take(i);
    }
    next_row_ += n_rows;
}

}  // namespace apex
