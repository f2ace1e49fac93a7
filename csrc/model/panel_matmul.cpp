#include "model/panel_matmul.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <new>

#include "ggml-cpu.h"
#include "kernels/panel_products.h"
#include "model/matmul_columns.h"
#include "model/product_traits.h"
#include "model/work_buffer.h"

namespace apex {
namespace {

using kernels::kPanelColumns;
using kernels::PanelColumns;
using kernels::PanelRow;

constexpr int64_t kBlock = 256;
constexpr int64_t kMinColumns = 8;  // ggml_tiled_min_batch: of fewer ggml computes one at a time
constexpr int64_t kUnitRows = 32;   // of weights, unpacked together

// By ggml's number, set once before anything computes; nullptr where products are ggml's.
std::array<const kernels::PanelType*, GGML_TYPE_COUNT> g_types{};

int64_t n_blocks_of(const MatmulShape& shape) {
    return shape.n_per_row() / kBlock;
}

// The last panel of every matrix may have fewer columns.
int64_t most_panels(const MatmulShape& shape) {
    return shape.n_columns() / kPanelColumns + shape.n_matrices();
}

// The parts of ggml's work buffer.
struct Workspace {
    std::atomic<int64_t>* next_unit;
    MatmulColumns columns;  // in Q8_K
    int64_t* first_panel;   // of each matrix, and the end
    char* inputs;           // all rows in Q8_K
    PanelColumns* panels;
    char* of_threads;  // kUnitRows of weights made ready, for each
    size_t bytes_of_input, bytes_of_thread, n_bytes;

    Workspace(const MatmulShape& shape, int n_threads, uintptr_t begin) {
        WorkBuffer buffer(begin);
        const auto n_blocks = static_cast<size_t>(n_blocks_of(shape));
        bytes_of_input = ggml_row_size(GGML_TYPE_Q8_K, shape.n_per_row());
        bytes_of_thread = static_cast<size_t>(kUnitRows) * n_blocks * sizeof(PanelRow);
        next_unit = buffer.take<std::atomic<int64_t>>(2);
        columns = buffer.take_columns(shape);
        first_panel = buffer.take<int64_t>(static_cast<size_t>(shape.n_matrices()) + 1);
        inputs = buffer.take<char>(static_cast<size_t>(shape.n_inputs()) * bytes_of_input);
        panels = buffer.take<PanelColumns>(static_cast<size_t>(most_panels(shape)) * n_blocks);
        of_threads = buffer.take<char>(static_cast<size_t>(n_threads) * bytes_of_thread);
        n_bytes = buffer.n_bytes();
    }
};

class Product {
  public:
    Product(const ggml_compute_params* params, const ggml_tensor* op)
        : params_(params),
          type_(*g_types[op->src[0]->type]),
          shape_(op),
          work_(shape_, params->nth, padded_to_line(reinterpret_cast<uintptr_t>(params->wdata))),
          rows_(reinterpret_cast<PanelRow*>(work_.of_threads + static_cast<size_t>(params->ith) *
                                                                   work_.bytes_of_thread)) {}

    void compute() {
        take_inputs();
        if (params_->ith == 0) {
            new (work_.next_unit) std::atomic<int64_t>(0);
            new (work_.next_unit + 1) std::atomic<int64_t>(0);
            work_.columns.list(shape_, work_.inputs, work_.bytes_of_input);
            list_panels();
        }
        ggml_barrier(params_->threadpool);
        const int64_t n_panels = work_.first_panel[shape_.n_matrices()];
        each_of(work_.next_unit, n_panels, [&](int64_t i) { take_panel(i); });
        ggml_barrier(params_->threadpool);
        const int64_t units_of_matrix = (shape_.n_rows() + kUnitRows - 1) / kUnitRows;
        each_of(work_.next_unit + 1, units_of_matrix * shape_.n_matrices(), [&](int64_t i) {
            compute_unit(i / units_of_matrix, i % units_of_matrix * kUnitRows);
        });
    }

  private:
    template <typename Work>
    void each_of(std::atomic<int64_t>* next, int64_t n, const Work& work) {
        while (true) {
            const int64_t i = next->fetch_add(1, std::memory_order_relaxed);
            if (i >= n) return;
            work(i);
        }
    }

    // ggml rounds the input to Q8_K, and so do we: with its own function.
    void take_inputs() {
        const auto from_float = ggml_get_type_traits_cpu(GGML_TYPE_Q8_K)->from_float;
        for (int64_t i = params_->ith; i < shape_.n_inputs(); i += params_->nth) {
            from_float(shape_.input_row(i),
                       work_.inputs + static_cast<size_t>(i) * work_.bytes_of_input,
                       shape_.n_per_row());
        }
    }

    // Matrices with few columns have none: ggml computes those one at a time, and so do we.
    void list_panels() {
        work_.first_panel[0] = 0;
        for (int64_t i = 0; i < shape_.n_matrices(); ++i) {
            const int64_t n = work_.columns.n_of(i);
            const bool is_tiled = shape_.ids == nullptr || n >= kMinColumns;
            work_.first_panel[i + 1] =
                work_.first_panel[i] + (is_tiled ? (n + kPanelColumns - 1) / kPanelColumns : 0);
        }
    }

    void take_panel(int64_t panel) {
        int64_t* end = work_.first_panel + shape_.n_matrices() + 1;
        const int64_t matrix =
            std::upper_bound(work_.first_panel, end, panel) - work_.first_panel - 1;
        const int64_t first =
            work_.columns.first[matrix] + (panel - work_.first_panel[matrix]) * kPanelColumns;
        const int64_t n = std::min<int64_t>(work_.columns.first[matrix + 1] - first, kPanelColumns);
        type_.take_columns(work_.columns.inputs + first, static_cast<int>(n),
                           work_.panels + panel * n_blocks_of(shape_), n_blocks_of(shape_));
    }

    void compute_unit(int64_t matrix, int64_t first_row) {
        if (work_.columns.n_of(matrix) == 0) return;
        const int64_t n_rows = std::min(kUnitRows, shape_.n_rows() - first_row);
        const int64_t first = work_.first_panel[matrix], end = work_.first_panel[matrix + 1];
        if (first == end) return compute_one_by_one(matrix, first_row, n_rows);
        const int64_t n_blocks = n_blocks_of(shape_);
        for (int64_t i = 0; i < n_rows; ++i) {
            type_.unpack(shape_.weight_row(matrix, first_row + i), rows_ + i * n_blocks, n_blocks);
        }
        float products[kUnitRows][kPanelColumns];
        for (int64_t panel = first; panel < end; ++panel) {
            type_.multiply(rows_, static_cast<int>(n_rows), n_blocks,
                           work_.panels + panel * n_blocks, products);
            const int64_t column = work_.columns.first[matrix] + (panel - first) * kPanelColumns;
            const int64_t n =
                std::min<int64_t>(work_.columns.first[matrix + 1] - column, kPanelColumns);
            for (int64_t c = 0; c < n; ++c) {
                float* output = work_.columns.outputs[column + c] + first_row;
                for (int64_t r = 0; r < n_rows; ++r) output[r] = products[r][c];
            }
        }
    }

    void compute_one_by_one(int64_t matrix, int64_t first_row, int64_t n_rows) {
        const auto vec_dot = ggml_get_type_traits_cpu(shape_.weights->type)->vec_dot;
        const auto n = static_cast<int>(shape_.n_per_row());
        for (int64_t c = work_.columns.first[matrix]; c < work_.columns.first[matrix + 1]; ++c) {
            for (int64_t r = 0; r < n_rows; ++r) {
                vec_dot(n, work_.columns.outputs[c] + first_row + r, 0,
                        shape_.weight_row(matrix, first_row + r), 0, work_.columns.inputs[c], 0, 1);
            }
        }
    }

    const ggml_compute_params* params_;
    const kernels::PanelType& type_;
    MatmulShape shape_;
    Workspace work_;
    PanelRow* rows_;
};

}  // namespace

bool is_panel_product(const ggml_tensor* op) {
    if (!is_matmul(op) || g_types[op->src[0]->type] == nullptr) return false;
    const MatmulShape shape(op);
    if (!has_plain_rows(shape) || shape.weights->extra != nullptr) return false;
    // No expert has more columns than there are tokens.
    const int64_t most = shape.ids != nullptr ? shape.ids->ne[1] : shape.input->ne[1];
    return most >= kMinColumns;
}

std::unique_ptr<ggml::cpu::tensor_traits> make_panel_traits(kernels::Isa isa) {
    bool any = false;
    for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
        g_types[type] = kernels::panel_type(static_cast<ggml_type>(type), isa);
        any = any || g_types[type] != nullptr;
    }
    if (!any) return nullptr;
    return std::make_unique<ProductTraits<Workspace, Product>>();
}

void leave_panels_to_ggml(ggml_type type) {
    g_types[type] = nullptr;
}

bool has_panel_matmul(ggml_type type) {
    return g_types[type] != nullptr;
}

}  // namespace apex
