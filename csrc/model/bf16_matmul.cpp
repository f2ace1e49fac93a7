#include "model/bf16_matmul.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <new>
#include <vector>

#include "core/simd_clones.h"
#include "ggml-cpu.h"
#include "kernels/bf16_products.h"
#include "model/bf16_self_test.h"
#include "traits.h"

namespace apex {
namespace {

#if defined(__x86_64__)
constexpr bool kAsGgml = true;      // ggml's own product has the same bits
constexpr int64_t kMinColumns = 8;  // fewer do not pay for widening the weights
#else
// ggml adds in another order and one product after the other. All products are the kernel's: were
// some of them ggml's, a result would depend on how many columns are computed with it.
constexpr bool kAsGgml = false;
constexpr int64_t kMinColumns = 1;
#endif
constexpr int64_t kUnitRows = 16;       // of weights, widened together
constexpr int64_t kPanelBytes = 16384;  // of columns that stay in the cache beside them
constexpr size_t kLine = 64;

using Widen = void (*)(const uint16_t* values, float* floats, int64_t n);

// A 16-bit type whose products are ours; products is null where they are ggml's.
struct HalfType {
    ggml_type type;
    Widen widen;
    kernels::Bf16Products products;
};

size_t padded(size_t n_bytes) {
    return (n_bytes + kLine - 1) / kLine * kLine;
}

APEX_SIMD_CLONES
void widen_bf16(const uint16_t* values, float* floats, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t bits = static_cast<uint32_t>(values[i]) << 16;
        std::memcpy(floats + i, &bits, sizeof(bits));
    }
}

void widen_f16(const uint16_t* values, float* floats, int64_t n) {
    ggml_cpu_fp16_to_fp32(values, floats, n);
}

std::array<HalfType, 2> g_halves{
    {{GGML_TYPE_BF16, &widen_bf16, nullptr}, {GGML_TYPE_F16, &widen_f16, nullptr}}};

const HalfType* half_of(ggml_type type) {
    for (const HalfType& half : g_halves) {
        if (half.type == type && half.products != nullptr) return &half;
    }
    return nullptr;
}

// A column of the product: which row of the input, and where its results go.
struct Shape {
    const ggml_tensor *weights, *input, *ids, *output;

    explicit Shape(const ggml_tensor* op)
        : weights(op->src[0]),
          input(op->src[1]),
          ids(op->op == GGML_OP_MUL_MAT_ID ? op->src[2] : nullptr),
          output(op) {}

    int64_t n_per_row() const { return weights->ne[0]; }
    int64_t n_rows() const { return weights->ne[1]; }
    int64_t n_matrices() const { return weights->ne[2]; }
    int64_t n_inputs() const { return ggml_nrows(input); }
    int64_t n_columns() const { return ids ? ids->ne[0] * ids->ne[1] : n_inputs(); }
};

bool is_ours(const ggml_tensor* op) {
    if (op->op != GGML_OP_MUL_MAT && op->op != GGML_OP_MUL_MAT_ID) return false;
    const Shape shape(op);
    const ggml_tensor *w = shape.weights, *x = shape.input;
    if (half_of(w->type) == nullptr || x->type != GGML_TYPE_F32 || op->type != GGML_TYPE_F32) {
        return false;
    }
    const bool stored_by_rows =
        w->nb[0] == sizeof(uint16_t) && x->nb[0] == sizeof(float) && op->nb[0] == sizeof(float);
    if (!stored_by_rows || w->ne[0] % kernels::kBf16RowMultiple != 0 || w->ne[3] != 1) return false;
    if (shape.n_columns() < kMinColumns) return false;
    if (shape.ids != nullptr) return shape.ids->type == GGML_TYPE_I32 && x->ne[3] == 1;
    return w->ne[2] == 1 && ggml_get_op_params_i32(op, 1) != GGML_HINT_SRC0_IS_HADAMARD;
}

// The parts of ggml's work buffer.
struct Workspace {
    std::atomic<int64_t>* next_unit;
    int64_t* first_column;  // of each matrix, and the end
    const float** columns;  // sorted by matrix
    float** outputs;
    float* inputs;     // all rows, rounded to BF16 and widened
    char* of_threads;  // a rounded row and kUnitRows of floats for each
    size_t bytes_of_thread;
    size_t n_bytes;

    Workspace(const Shape& shape, int n_threads, uintptr_t begin) {
        uintptr_t end = begin;
        const auto take = [&end](size_t n_bytes) {
            const uintptr_t part = end;
            end += padded(n_bytes);
            return part;
        };
        const auto n_columns = static_cast<size_t>(shape.n_columns());
        const auto n_per_row = static_cast<size_t>(shape.n_per_row());
        next_unit = reinterpret_cast<std::atomic<int64_t>*>(take(sizeof(std::atomic<int64_t>)));
        first_column = reinterpret_cast<int64_t*>(
            take((static_cast<size_t>(shape.n_matrices()) + 1) * sizeof(int64_t)));
        columns = reinterpret_cast<const float**>(take(n_columns * sizeof(float*)));
        outputs = reinterpret_cast<float**>(take(n_columns * sizeof(float*)));
        inputs = reinterpret_cast<float*>(
            take(static_cast<size_t>(shape.n_inputs()) * n_per_row * sizeof(float)));
        bytes_of_thread =
            padded(n_per_row * sizeof(uint16_t)) + padded(kUnitRows * n_per_row * sizeof(float));
        of_threads =
            reinterpret_cast<char*>(take(static_cast<size_t>(n_threads) * bytes_of_thread));
        n_bytes = end - begin;
    }
};

class Product {
  public:
    Product(const ggml_compute_params* params, const ggml_tensor* op)
        : params_(params),
          half_(*half_of(op->src[0]->type)),
          shape_(op),
          work_(shape_, params->nth, aligned(params->wdata)) {
        char* own = work_.of_threads + static_cast<size_t>(params->ith) * work_.bytes_of_thread;
        rounded_ = reinterpret_cast<uint16_t*>(own);
        const auto n_per_row = static_cast<size_t>(shape_.n_per_row());
        rows_ = reinterpret_cast<float*>(own + padded(n_per_row * sizeof(uint16_t)));
    }

    void compute() {
        widen_inputs();
        if (params_->ith == 0) {
            new (work_.next_unit) std::atomic<int64_t>(0);
            shape_.ids == nullptr ? list_columns() : list_routed_columns();
        }
        ggml_barrier(params_->threadpool);
        const int64_t units_of_matrix = (shape_.n_rows() + kUnitRows - 1) / kUnitRows;
        const int64_t n_units = units_of_matrix * shape_.n_matrices();
        while (true) {
            const int64_t unit = work_.next_unit->fetch_add(1, std::memory_order_relaxed);
            if (unit >= n_units) break;
            compute_unit(unit / units_of_matrix, unit % units_of_matrix * kUnitRows);
        }
    }

    static uintptr_t aligned(const void* data) { return padded(reinterpret_cast<uintptr_t>(data)); }

  private:
    // ggml rounds the input to the type of the weights, and so do we: with its own function.
    void widen_inputs() {
        const auto* traits = ggml_get_type_traits_cpu(half_.type);
        const ggml_tensor* input = shape_.input;
        const int64_t n_per_row = shape_.n_per_row();
        for (int64_t i = params_->ith; i < shape_.n_inputs(); i += params_->nth) {
            const int64_t i1 = i % input->ne[1], i2 = i / input->ne[1] % input->ne[2];
            const int64_t i3 = i / (input->ne[1] * input->ne[2]);
            const char* row = static_cast<const char*>(input->data) + i1 * input->nb[1] +
                              i2 * input->nb[2] + i3 * input->nb[3];
            traits->from_float(reinterpret_cast<const float*>(row), rounded_, n_per_row);
            half_.widen(rounded_, work_.inputs + i * n_per_row, n_per_row);
        }
    }

    float* output_row(int64_t i1, int64_t i2, int64_t i3) const {
        const ggml_tensor* output = shape_.output;
        return reinterpret_cast<float*>(static_cast<char*>(output->data) + i1 * output->nb[1] +
                                        i2 * output->nb[2] + i3 * output->nb[3]);
    }

    void list_columns() {
        const ggml_tensor* input = shape_.input;
        for (int64_t i = 0; i < shape_.n_columns(); ++i) {
            work_.columns[i] = work_.inputs + i * shape_.n_per_row();
            work_.outputs[i] = output_row(i % input->ne[1], i / input->ne[1] % input->ne[2],
                                          i / (input->ne[1] * input->ne[2]));
        }
        work_.first_column[0] = 0;
        work_.first_column[1] = shape_.n_columns();
    }

    int32_t expert_of(int64_t slot, int64_t token) const {
        const char* id = static_cast<const char*>(shape_.ids->data) + slot * shape_.ids->nb[0] +
                         token * shape_.ids->nb[1];
        return *reinterpret_cast<const int32_t*>(id);
    }

    // Sorted by expert; an id outside them has no column (ggml would read past its tables).
    void list_routed_columns() {
        const ggml_tensor *ids = shape_.ids, *input = shape_.input;
        const int64_t n_matrices = shape_.n_matrices();
        std::fill_n(work_.first_column, n_matrices + 1, 0);
        const auto each = [&](const auto& visit) {
            for (int64_t token = 0; token < ids->ne[1]; ++token) {
                for (int64_t slot = 0; slot < ids->ne[0]; ++slot) {
                    const int32_t expert = expert_of(slot, token);
                    if (expert >= 0 && expert < n_matrices) visit(slot, token, expert);
                }
            }
        };
        each([&](int64_t, int64_t, int32_t expert) { ++work_.first_column[expert + 1]; });
        for (int64_t i = 0; i < n_matrices; ++i) {
            work_.first_column[i + 1] += work_.first_column[i];
        }
        each([&](int64_t slot, int64_t token, int32_t expert) {
            const int64_t at = work_.first_column[expert]++;
            const int64_t row = slot % input->ne[1] + token * input->ne[1];
            work_.columns[at] = work_.inputs + row * shape_.n_per_row();
            work_.outputs[at] = output_row(slot, token, 0);
        });
        for (int64_t i = n_matrices; i > 0; --i) work_.first_column[i] = work_.first_column[i - 1];
        work_.first_column[0] = 0;
    }

    void compute_unit(int64_t matrix, int64_t first_row) {
        const int64_t begin = work_.first_column[matrix], end = work_.first_column[matrix + 1];
        if (begin == end) return;
        const int64_t n_per_row = shape_.n_per_row();
        const int64_t n_rows = std::min(kUnitRows, shape_.n_rows() - first_row);
        const char* weights = static_cast<const char*>(shape_.weights->data) +
                              matrix * shape_.weights->nb[2] + first_row * shape_.weights->nb[1];
        for (int64_t i = 0; i < n_rows; ++i) {
            const char* row = weights + i * shape_.weights->nb[1];
            half_.widen(reinterpret_cast<const uint16_t*>(row), rows_ + i * n_per_row, n_per_row);
        }
        const int64_t row_bytes = n_per_row * static_cast<int64_t>(sizeof(float));
        const int64_t panel = std::max<int64_t>(kPanelBytes / row_bytes / 3, 1) * 3;
        for (int64_t c = begin; c < end; c += panel) {
            for (int64_t i = 0; i < n_rows; i += kernels::kBf16Rows) {
                const auto n = static_cast<int>(std::min<int64_t>(kernels::kBf16Rows, n_rows - i));
                half_.products(rows_ + i * n_per_row, n, n_per_row, work_.columns + c,
                               std::min(panel, end - c), work_.outputs + c, first_row + i);
            }
        }
    }

    const ggml_compute_params* params_;
    const HalfType& half_;
    Shape shape_;
    Workspace work_;
    uint16_t* rounded_;
    float* rows_;
};

class Bf16Traits : public ggml::cpu::tensor_traits {
  public:
    bool work_size(int n_threads, const ggml_tensor* op, size_t& size) override {
        size = Workspace(Shape(op), n_threads, 0).n_bytes + kLine;
        return true;
    }
    bool compute_forward(ggml_compute_params* params, ggml_tensor* op) override {
        Product(params, op).compute();
        return true;
    }
};

// Stands before one of ggml's extra buffer types, which keeps all it had.
class WithBf16 : public ggml::cpu::extra_buffer_type {
  public:
    explicit WithBf16(ggml::cpu::extra_buffer_type* original) : original_(original) {}
    bool supports_op(ggml_backend_dev_t device, const ggml_tensor* op) override {
        return original_->supports_op(device, op);
    }
    ggml::cpu::tensor_traits* get_tensor_traits(const ggml_tensor* op) override {
        ggml::cpu::tensor_traits* traits = original_->get_tensor_traits(op);
        if (traits == nullptr && is_ours(op)) traits = &bf16_;
        return traits;
    }

  private:
    ggml::cpu::extra_buffer_type* original_;
    Bf16Traits bf16_;
};

}  // namespace

void install_bf16_matmul() {
    const kernels::Isa isa = kernels::best_isa();
    const auto& types = ggml_backend_cpu_get_extra_buffer_types();
    if (types.empty() || types.front()->context == nullptr) return;
    kernels::Bf16Products of_bf16 = kernels::bf16_products(isa);
    kernels::Bf16Products of_f16 = kernels::f16_products(isa);
    if (of_bf16 != nullptr && (!kAsGgml || equals_ggml(of_bf16, GGML_TYPE_BF16))) {
        g_halves[0].products = of_bf16;
    }
    if (of_f16 != nullptr && equals_ggml(of_f16, GGML_TYPE_F16)) g_halves[1].products = of_f16;
    if (half_of(GGML_TYPE_BF16) == nullptr && half_of(GGML_TYPE_F16) == nullptr) return;
    // Lives as long as the process, like the type it stands before.
    types.front()->context =
        new WithBf16(static_cast<ggml::cpu::extra_buffer_type*>(types.front()->context));
}

bool has_bf16_matmul() {
    return half_of(GGML_TYPE_BF16) != nullptr;
}

bool has_f16_matmul() {
    return half_of(GGML_TYPE_F16) != nullptr;
}

}  // namespace apex
