#include "model/memory_use.h"

#include "core/error.h"
#include "llama-ext.h"

namespace apex {

std::vector<DeviceMemoryUse> memory_use(const std::shared_ptr<Model>& model,
                                        const ContextOptions& options) {
    if (!model->options().no_alloc) {
        fail<InvalidArgument>(model->path(), " was loaded with its weights; load it with no_alloc");
    }
    const Context context(model, std::make_shared<ThreadPool>(1), options);
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
