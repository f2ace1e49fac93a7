#include "model/upstream_quantize.h"

#include "core/error.h"
#include "core/log.h"
#include "llama.h"
#include "model/model.h"

namespace apex {

void upstream_quantize(const std::string& source, const std::string& target,
                       const UpstreamQuantizeOptions& options) {
    initialize_llama();
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = static_cast<llama_ftype>(options.ftype);
    params.nthread = options.n_threads;
    params.pure = options.pure;
    params.allow_requantize = options.allow_requantize;

    std::vector<llama_model_tensor_override> overrides;
    for (const auto& [pattern, type] : options.tensor_types) {
        overrides.push_back({pattern.c_str(), static_cast<ggml_type>(type)});
    }
    overrides.push_back({nullptr, GGML_TYPE_COUNT});
    if (overrides.size() > 1) params.tt_overrides = overrides.data();

    std::vector<llama_model_imatrix_data> imatrix;
    for (const auto& [name, values] : options.imatrix) {
        imatrix.push_back({name.c_str(), values.data(), values.size()});
    }
    imatrix.push_back({nullptr, nullptr, 0});
    if (imatrix.size() > 1) params.imatrix = imatrix.data();

    drain_log();
    if (llama_model_quantize(source.c_str(), target.c_str(), &params) == 0) return;
    std::string reason;
    for (const LogLine& line : drain_log()) {
        if (!line.text.empty()) reason = line.text;
    }
    fail<QuantizeError>("llama_model_quantize failed: ", reason);
}

}  // namespace apex
