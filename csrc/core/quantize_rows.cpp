#include "core/quantize_rows.h"

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "core/abort_guard.h"
#include "core/checks.h"
#include "core/error.h"
#include "kernels/kernels.h"

namespace apex {

namespace {

kernels::Isa isa_in_use() {
    static const kernels::Isa isa = kernels::best_isa();
    return isa;
}

// Our own kernel for this CPU, or null where ggml's function is the one to call.
kernels::QuantizeRows own_kernel(ggml_type type, bool with_imatrix) {
    return kernels::quantize_rows(type, isa_in_use(), with_imatrix);
}

bool needs_ggml_tables(ggml_type type) {
    const bool without_matrix = !kernel_requires_imatrix(type);
    return own_kernel(type, true) == nullptr ||
           (without_matrix && own_kernel(type, false) == nullptr);
}

bool has_finite_scales(ggml_type type, const void* rows, int64_t n_rows, int64_t n_per_row) {
    return ggml_validate_row_data(type, rows,
                                  row_bytes(type, n_per_row) * static_cast<size_t>(n_rows));
}

}  // namespace

QuantizerTables::QuantizerTables(ggml_type type) {
    static std::mutex mutex;
    static std::map<ggml_type, std::shared_future<void>> started;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_future<void>& future = started[type];
    if (!future.valid()) {
        const auto build = std::make_shared<std::packaged_task<void()>>([type] {
            if (needs_ggml_tables(type)) ggml_quantize_init(type);
        });
        future = build->get_future().share();
        try {
            std::thread([build] { (*build)(); }).detach();
        } catch (const std::system_error&) {
            (*build)();  // no thread to be had
        }
    }
    built_ = future;
}

bool QuantizerTables::ready(int timeout_ms) const {
    return built_.wait_for(std::chrono::milliseconds(timeout_ms)) == std::future_status::ready;
}

void quantize_rows(ggml_type type, const float* src, void* dst, int64_t n_rows, int64_t n_per_row,
                   const float* imatrix) {
    if (const kernels::QuantizeRows kernel = own_kernel(type, imatrix != nullptr)) {
        try {
            kernel(src, dst, n_rows, n_per_row, imatrix);
            if (has_finite_scales(type, dst, n_rows, n_per_row)) return;
            // Sums overflowed; ggml refuses too, or (Q3_K) its NaN take another way.
        } catch (const kernels::Overflow&) {
            // ggml is not asked to fail: IQ2_XXS reads beyond its map before it does.
            fail<QuantizeError>("the weights or importances are too large for ",
                                ggml_type_name(type), ": a sum of its search overflows");
        } catch (const kernels::UndefinedInGgml&) {
        }
    }
    quantize_rows_by_ggml(type, src, dst, n_rows, n_per_row, imatrix);
}

void quantize_rows_by_ggml(ggml_type type, const float* src, void* dst, int64_t n_rows,
                           int64_t n_per_row, const float* imatrix) {
    try {
        guarded([&] { ggml_quantize_chunk(type, src, dst, 0, n_rows, n_per_row, imatrix); });
    } catch (const GgmlAbort& abort) {
        fail<QuantizeError>("ggml's quantizer for ", ggml_type_name(type),
                            " gave up on these weights: ", abort.what());
    }
    if (!has_finite_scales(type, dst, n_rows, n_per_row)) {
        fail<QuantizeError>("the result in ", ggml_type_name(type),
                            " holds a scale that is not finite: the weights are too large for it");
    }
}

const char* kernel_isa() {
    switch (isa_in_use()) {
        case kernels::Isa::avx512:
            return "avx512";
        case kernels::Isa::avx2:
            return "avx2";
        case kernels::Isa::neon:
            return "neon";
        default:
            return "portable";
    }
}

}  // namespace apex
