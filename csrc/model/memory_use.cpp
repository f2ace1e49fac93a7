#include "model/memory_use.h"

#include "core/error.h"
#include "llama-ext.h"
#include "model/batch.h"

namespace apex {
namespace {

void compute(Context& context, uint32_t n_tokens) {
    Batch batch;
    for (uint32_t i = 0; i < n_tokens; ++i) {
        const bool is_last = i + 1 == n_tokens;
        batch.add(0, static_cast<llama_pos>(i), 0, is_last);
        if (!is_last && batch.n_tokens() < context.options().n_batch) continue;
        context.decode(batch);
        batch.clear();
    }
    llama_synchronize(context.get());
}

}  // namespace

std::vector<DeviceMemoryUse> memory_use(const std::shared_ptr<Model>& model,
                                        const ContextOptions& options, uint32_t n_tokens) {
    if (n_tokens > (model->options().no_alloc ? 0 : options.n_ctx)) {
        fail<InvalidArgument>("n_tokens: ", n_tokens, " tokens, for a context of ", options.n_ctx,
                              model->options().no_alloc ? " of a model without weights" : "");
    }
    Context context(model, std::make_shared<ThreadPool>(1), options);
    compute(context, n_tokens);
    std::vector<ggml_backend_dev_t> devices;
    std::vector<DeviceMemoryUse> result;
    for (int i = 0; i < llama_model_n_devices(model->get()); ++i) {
        ggml_backend_dev_t device = llama_model_get_device(model->get(), i);
        size_t free = 0, total = 0;
        ggml_backend_dev_memory(device, &free, &total);
        devices.push_back(device);
        result.push_back({ggml_backend_dev_name(device), 0, 0, 0, free});
    }
    result.push_back({});
    for (const auto& [type, bytes] : llama_get_memory_breakdown(context.get())) {
        size_t place = devices.size();
        for (size_t i = 0; i < devices.size() && !ggml_backend_buft_is_host(type); ++i) {
            if (ggml_backend_buft_get_device(type) == devices[i]) place = i;
        }
        result[place].weights += bytes.model;
        result[place].context += bytes.context;
        result[place].compute += bytes.compute;
    }
    return result;
}

}  // namespace apex
