#include "core/quantize_rows.h"

#include <chrono>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "core/abort_guard.h"
#include "core/checks.h"
#include "core/error.h"
#include "kernels/kernels.h"

namespace apex {

namespace {

// Our own kernel for this CPU, or null where ggml's function is the one to call.
kernels::QuantizeRows own_kernel(ggml_type type, bool with_imatrix) {
    static const kernels::Isa isa = kernels::best_isa();
    return kernels::quantize_rows(type, isa, with_imatrix);
}

bool needs_ggml_tables(ggml_type type) {
    return own_kernel(type, true) == nullptr || own_kernel(type, false) == nullptr;
}

}  // namespace

QuantizerTables::QuantizerTables(ggml_type type) {
    static std::mutex mutex;
    static std::map<ggml_type, std::shared_future<void>> started;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_future<void>& future = started[type];
    if (!future.valid()) {
        std::packaged_task<void()> build([type] {
            if (needs_ggml_tables(type)) ggml_quantize_init(type);
        });
        future = build.get_future().share();
        std::thread(std::move(build)).detach();
    }
    built_ = future;
}

bool QuantizerTables::ready(int timeout_ms) const {
    return built_.wait_for(std::chrono::milliseconds(timeout_ms)) == std::future_status::ready;
}

void quantize_rows(ggml_type type, const float* src, void* dst, int64_t n_rows, int64_t n_per_row,
                   const float* imatrix) {
    const kernels::QuantizeRows kernel = own_kernel(type, imatrix != nullptr);
    try {
        if (kernel != nullptr) {
            kernel(src, dst, n_rows, n_per_row, imatrix);
        } else {
            guarded([&] { ggml_quantize_chunk(type, src, dst, 0, n_rows, n_per_row, imatrix); });
        }
    } catch (const GgmlAbort& abort) {
        fail<QuantizeError>("ggml's quantizer for ", ggml_type_name(type),
                            " gave up on these weights: ", abort.what());
    }
    const size_t n_bytes = row_bytes(type, n_per_row) * static_cast<size_t>(n_rows);
    if (!ggml_validate_row_data(type, dst, n_bytes)) {
        fail<QuantizeError>("the result in ", ggml_type_name(type),
                            " holds a scale that is not finite: the weights are too large for it");
    }
}

}  // namespace apex
