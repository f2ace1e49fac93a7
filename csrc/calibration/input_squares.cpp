#include "calibration/input_squares.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "calibration/squared_columns.h"
#include "core/error.h"
#include "ggml-backend.h"

namespace apex {
namespace {

// Which columns a thread sums: whole tiles, so that no two threads write to one cache line.
struct ColumnRange {
    int64_t begin, end;
};

ColumnRange columns_of(int thread, int n_threads, int64_t n_columns) {
    const int64_t n_tiles = (n_columns + kColumnTile - 1) / kColumnTile;
    const auto tile = [&](int64_t i) { return i * n_tiles / n_threads * kColumnTile; };
    return {std::min(tile(thread), n_columns), std::min(tile(thread + 1), n_columns)};
}

}  // namespace

void check_input_layout(const MatmulNode& node) {
    const ggml_tensor* input = node.input;
    if (input->nb[0] != sizeof(float)) {
        fail<ModelError>(node.weight.name, ": its input is not stored row by row (stride ",
                         input->nb[0], "); this architecture cannot be calibrated");
    }
    if (input->ne[0] != node.weight.n_per_row()) {
        fail<ModelError>(node.weight.name, ": rows of ", node.weight.n_per_row(),
                         " meet inputs of ", input->ne[0]);
    }
    if (node.experts == nullptr) return;
    if (node.experts->type != GGML_TYPE_I32 || node.experts->ne[1] != input->ne[2] ||
        node.experts->ne[2] * node.experts->ne[3] != 1 || input->ne[3] != 1) {
        fail<ModelError>(node.weight.name, ": expert numbers [", node.experts->ne[0], ", ",
                         node.experts->ne[1], "] do not go with inputs [", input->ne[0], ", ",
                         input->ne[1], ", ", input->ne[2], ", ", input->ne[3], "]");
    }
}

const InputSquares* InputSquaresCache::find(const InputIdentity& identity) const {
    for (const InputSquares& squares : kept_) {
        if (squares.identity.values != nullptr && squares.identity == identity) return &squares;
    }
    return nullptr;
}

void InputSquaresCache::forget(const ggml_tensor* node) {
    for (InputSquares& squares : kept_) {
        if (squares.identity.values == node || squares.identity.experts == node) {
            squares.identity = {};
        }
    }
}

void InputSquaresCache::clear() {
    for (InputSquares& squares : kept_) squares.identity = {};
}

const InputSquares& InputSquaresCache::compute(const MatmulNode& node, uint64_t number) {
    copy_to_host(node);
    InputSquares& squares = kept_[next_];
    next_ = (next_ + 1) % kKept;
    squares.identity = {};
    squares.number = number;
    squares.weight = node.weight.name;
    squares.n_per_row = node.weight.n_per_row();
    squares.counts.assign(static_cast<size_t>(node.weight.n_matrices()), 0);
    squares.sums.resize(static_cast<size_t>(node.weight.n_matrices() * node.weight.n_per_row()));
    if (node.experts == nullptr) {
        sort_rows(node, squares);
    } else {
        sort_routed_rows(node, squares);
    }
    sum_rows(node, squares);
    // A leaf is filled from outside and never asked about: it cannot be seen changing.
    if (node.identity.values->op != GGML_OP_NONE) squares.identity = node.identity;
    return squares;
}

void InputSquaresCache::copy_to_host(const MatmulNode& node) {
    if (node.input->buffer == nullptr || ggml_backend_buffer_is_host(node.input->buffer)) {
        data_ = static_cast<const char*>(node.input->data);
        return;
    }
    host_input_.resize(ggml_nbytes(node.input));
    ggml_backend_tensor_get(node.input, host_input_.data(), 0, host_input_.size());
    data_ = host_input_.data();
}

// Row r of plane (i2, i3) is multiplied with matrix (i2 % ne2, i3 % ne3), as ggml broadcasts.
void InputSquaresCache::sort_rows(const MatmulNode& node, InputSquares& squares) {
    const ggml_tensor* input = node.input;
    const int64_t* n_matrices = node.weight.ne;
    rows_.clear();
    first_row_.clear();
    for (int64_t m3 = 0; m3 < n_matrices[3]; ++m3) {
        for (int64_t m2 = 0; m2 < n_matrices[2]; ++m2) {
            first_row_.push_back(rows_.size());
            for (int64_t i3 = m3; i3 < input->ne[3]; i3 += n_matrices[3]) {
                for (int64_t i2 = m2; i2 < input->ne[2]; i2 += n_matrices[2]) {
                    const char* plane = data_ + i2 * input->nb[2] + i3 * input->nb[3];
                    for (int64_t row = 0; row < input->ne[1]; ++row) {
                        rows_.push_back(reinterpret_cast<const float*>(plane + row * input->nb[1]));
                    }
                }
            }
            squares.counts[first_row_.size() - 1] =
                static_cast<int64_t>(rows_.size() - first_row_.back());
        }
    }
    first_row_.push_back(rows_.size());
}

// Token t goes to the experts ids[:, t]; a broadcast input has one row for all of them.
void InputSquaresCache::sort_routed_rows(const MatmulNode& node, InputSquares& squares) {
    const ggml_tensor *ids = node.experts, *input = node.input;
    const int64_t n_experts = node.weight.n_matrices();
    host_experts_.resize(ggml_nbytes(ids));
    ggml_backend_tensor_get(ids, host_experts_.data(), 0, host_experts_.size());
    const auto expert_of = [&](int64_t slot, int64_t token) {
        int32_t expert;
        std::memcpy(&expert, host_experts_.data() + slot * ids->nb[0] + token * ids->nb[1],
                    sizeof(expert));
        return expert;
    };
    for (int64_t token = 0; token < ids->ne[1]; ++token) {
        for (int64_t slot = 0; slot < ids->ne[0]; ++slot) {
            const int32_t expert = expert_of(slot, token);
            if (expert < 0 || expert >= n_experts) {
                fail<ModelError>(node.weight.name, ": token ", token, " was sent to expert ",
                                 expert, " of ", n_experts, "; the file's router is damaged");
            }
            ++squares.counts[static_cast<size_t>(expert)];
        }
    }
    first_row_.assign(1, 0);
    for (const int64_t count : squares.counts) {
        first_row_.push_back(first_row_.back() + static_cast<size_t>(count));
    }
    rows_.resize(first_row_.back());
    std::vector<size_t> next(first_row_.begin(), first_row_.end() - 1);
    for (int64_t token = 0; token < ids->ne[1]; ++token) {
        for (int64_t slot = 0; slot < ids->ne[0]; ++slot) {
            const char* row = data_ + slot % input->ne[1] * input->nb[1] + token * input->nb[2];
            rows_[next[static_cast<size_t>(expert_of(slot, token))]++] =
                reinterpret_cast<const float*>(row);
        }
    }
}

void InputSquaresCache::sum_rows(const MatmulNode& node, InputSquares& squares) {
    std::atomic<bool> all_finite{true};
    pool_.run([&](int thread, int n_threads) {
        const ColumnRange columns = columns_of(thread, n_threads, squares.n_per_row);
        if (columns.begin >= columns.end) return;
        for (size_t i = 0; i < squares.counts.size(); ++i) {
            if (squares.counts[i] == 0) continue;
            double* sums = squares.sums.data() + static_cast<int64_t>(i) * squares.n_per_row;
            if (!sum_squared_columns(rows_.data() + first_row_[i],
                                     static_cast<size_t>(squares.counts[i]), columns.begin,
                                     columns.end, sums)) {
                all_finite.store(false, std::memory_order_relaxed);
            }
        }
    });
    if (!all_finite.load()) fail_not_finite(node, squares);
}

void InputSquaresCache::fail_not_finite(const MatmulNode& node, const InputSquares& squares) const {
    for (size_t i = 0; i < squares.counts.size(); ++i) {
        for (size_t row = first_row_[i]; row < first_row_[i + 1]; ++row) {
            const float* values = rows_[row];
            const float* bad = std::find_if(values, values + squares.n_per_row,
                                            [](float value) { return !std::isfinite(value); });
            if (bad == values + squares.n_per_row) continue;
            const bool routed = squares.counts.size() > 1;
            fail<ModelError>(node.weight.name, routed ? concat(", expert ", i) : std::string(),
                             ": its input is ", *bad, " in column ", bad - values,
                             "; the weights before it are damaged or overflow");
        }
    }
    fail<ModelError>(node.weight.name, ": its inputs are too large to be squared and summed");
}

}  // namespace apex
