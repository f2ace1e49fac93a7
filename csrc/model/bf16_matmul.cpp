#include "model/bf16_matmul.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "core/simd_clones.h"
#include "ggml-cpu.h"
#include "kernels/bf16_products.h"
#include "model/bf16_self_test.h"
#include "model/matmul_columns.h"
#include "model/product_traits.h"
#include "model/work_buffer.h"

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

using Widen = void (*)(const uint16_t* values, float* floats, int64_t n);

// A 16-bit type whose products are ours; products is null where they are ggml's.
struct HalfType {
    ggml_type type;
    Widen widen;
    kernels::Bf16Products products;
};

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

// The parts of ggml's work buffer.
struct Workspace {
    std::atomic<int64_t>* next_unit;
    MatmulColumns columns;
    float* inputs;     // all rows, rounded to BF16 and widened
    char* of_threads;  // a rounded row and kUnitRows of floats for each
    size_t bytes_of_thread;
    size_t n_bytes;

    Workspace(const MatmulShape& shape, int n_threads, uintptr_t begin) {
        WorkBuffer buffer(begin);
        const auto n_per_row = static_cast<size_t>(shape.n_per_row());
        next_unit = buffer.take<std::atomic<int64_t>>(1);
        columns = buffer.take_columns(shape);
        inputs = buffer.take<float>(static_cast<size_t>(shape.n_inputs()) * n_per_row);
        bytes_of_thread = padded_to_line(n_per_row * sizeof(uint16_t)) +
                          padded_to_line(kUnitRows * n_per_row * sizeof(float));
        of_threads = buffer.take<char>(static_cast<size_t>(n_threads) * bytes_of_thread);
        n_bytes = buffer.n_bytes();
    }
};

class Product {
  public:
    Product(const ggml_compute_params* params, const ggml_tensor* op)
        : params_(params),
          half_(*half_of(op->src[0]->type)),
          shape_(op),
          work_(shape_, params->nth, padded_to_line(reinterpret_cast<uintptr_t>(params->wdata))) {
        char* own = work_.of_threads + static_cast<size_t>(params->ith) * work_.bytes_of_thread;
        rounded_ = reinterpret_cast<uint16_t*>(own);
        const auto n_per_row = static_cast<size_t>(shape_.n_per_row());
        rows_ = reinterpret_cast<float*>(own + padded_to_line(n_per_row * sizeof(uint16_t)));
    }

    void compute() {
        widen_inputs();
        if (params_->ith == 0) {
            new (work_.next_unit) std::atomic<int64_t>(0);
            const auto n_per_row = static_cast<size_t>(shape_.n_per_row());
            work_.columns.list(shape_, reinterpret_cast<const char*>(work_.inputs),
                               n_per_row * sizeof(float));
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

  private:
    // ggml rounds the input to the type of the weights, and so do we: with its own function.
    void widen_inputs() {
        const auto* traits = ggml_get_type_traits_cpu(half_.type);
        const int64_t n_per_row = shape_.n_per_row();
        for (int64_t i = params_->ith; i < shape_.n_inputs(); i += params_->nth) {
            traits->from_float(shape_.input_row(i), rounded_, n_per_row);
            half_.widen(rounded_, work_.inputs + i * n_per_row, n_per_row);
        }
    }

    void compute_unit(int64_t matrix, int64_t first_row) {
        const MatmulColumns& columns = work_.columns;
        const int64_t begin = columns.first[matrix], end = columns.first[matrix + 1];
        if (begin == end) return;
        const int64_t n_per_row = shape_.n_per_row();
        const int64_t n_rows = std::min(kUnitRows, shape_.n_rows() - first_row);
        for (int64_t i = 0; i < n_rows; ++i) {
            const char* row = shape_.weight_row(matrix, first_row + i);
            half_.widen(reinterpret_cast<const uint16_t*>(row), rows_ + i * n_per_row, n_per_row);
        }
        const int64_t row_bytes = n_per_row * static_cast<int64_t>(sizeof(float));
        const int64_t panel = std::max<int64_t>(kPanelBytes / row_bytes / 3, 1) * 3;
        for (int64_t c = begin; c < end; c += panel) {
            for (int64_t i = 0; i < n_rows; i += kernels::kBf16Rows) {
                const auto n = static_cast<int>(std::min<int64_t>(kernels::kBf16Rows, n_rows - i));
                half_.products(rows_ + i * n_per_row, n, n_per_row,
                               reinterpret_cast<const float* const*>(columns.inputs + c),
                               std::min(panel, end - c), columns.outputs + c, first_row + i);
            }
        }
    }

    const ggml_compute_params* params_;
    const HalfType& half_;
    MatmulShape shape_;
    Workspace work_;
    uint16_t* rounded_;
    float* rows_;
};

}  // namespace

bool is_bf16_product(const ggml_tensor* op) {
    if (!is_matmul(op) || half_of(op->src[0]->type) == nullptr) return false;
    const MatmulShape shape(op);
    return has_plain_rows(shape) && shape.n_per_row() % kernels::kBf16RowMultiple == 0 &&
           shape.n_columns() >= kMinColumns;
}

std::unique_ptr<ggml::cpu::tensor_traits> make_bf16_traits(kernels::Isa isa) {
    kernels::Bf16Products of_bf16 = kernels::bf16_products(isa);
    kernels::Bf16Products of_f16 = kernels::f16_products(isa);
    if (of_bf16 != nullptr && (!kAsGgml || equals_ggml(of_bf16, GGML_TYPE_BF16))) {
        g_halves[0].products = of_bf16;
    }
    if (of_f16 != nullptr && equals_ggml(of_f16, GGML_TYPE_F16)) g_halves[1].products = of_f16;
    if (!has_bf16_matmul() && !has_f16_matmul()) return nullptr;
    return std::make_unique<ProductTraits<Workspace, Product>>();
}

bool has_bf16_matmul() {
    return half_of(GGML_TYPE_BF16) != nullptr;
}

bool has_f16_matmul() {
    return half_of(GGML_TYPE_F16) != nullptr;
}

}  // namespace apex
