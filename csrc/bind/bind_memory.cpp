#include "bind/engine.h"
#include "bind/types.h"
#include "model/cache_tensors.h"
#include "model/memory_use.h"
#include "model/model_weights.h"

namespace apex::bind {
namespace {

ContextOptions context_options(uint32_t n_ctx, uint32_t n_batch, uint32_t n_seq_max,
                               uint32_t n_outputs_max, ggml_type type_k, ggml_type type_v,
                               bool swa_full) {
    ContextOptions options;
    options.n_ctx = n_ctx;
    options.n_batch = options.n_ubatch = n_batch;
    options.n_seq_max = n_seq_max;
    options.n_outputs_max = n_outputs_max;
    options.type_k = type_k;
    options.type_v = type_v;
    options.swa_full = swa_full;
    return options;
}

// [(device, weights, context, compute, free)] in bytes; the host's is named "" and has no free
// ones.
py::list memory_of(const std::shared_ptr<Model>& model, uint32_t n_ctx, uint32_t n_batch,
                   uint32_t n_seq_max, uint32_t n_outputs_max, ggml_type type_k, ggml_type type_v,
                   bool swa_full, uint32_t n_tokens) {
    const ContextOptions options =
        context_options(n_ctx, n_batch, n_seq_max, n_outputs_max, type_k, type_v, swa_full);
    std::vector<DeviceMemoryUse> found;
    {
        const py::gil_scoped_release unlocked;
        found = memory_use(model, options, n_tokens);
    }
    py::list result;
    for (const DeviceMemoryUse& use : found) {
        result.append(py::make_tuple(use.device, use.weights, use.context, use.compute, use.free));
    }
    return result;
}

// [(layer, kind, type, width, rows, bytes)] of every tensor of the caches.
py::list caches_of(const std::shared_ptr<Model>& model, uint32_t n_ctx, uint32_t n_batch,
                   uint32_t n_seq_max, ggml_type type_k, ggml_type type_v, bool swa_full) {
    const ContextOptions options =
        context_options(n_ctx, n_batch, n_seq_max, 1, type_k, type_v, swa_full);
    std::vector<CacheTensor> found;
    {
        const py::gil_scoped_release unlocked;
        found = cache_tensors(model, options);
    }
    py::list result;
    for (const CacheTensor& cache : found) {
        result.append(py::make_tuple(cache.layer, cache.kind, static_cast<int>(cache.type),
                                     cache.width, cache.rows, cache.n_bytes));
    }
    return result;
}

py::list weight_data(const Model& model, const std::string& name) {
    std::vector<std::vector<char>> found;
    {
        const py::gil_scoped_release unlocked;
        found = read_weights(model, name);
    }
    py::list result;
    for (const std::vector<char>& data : found) result.append(py::bytes(data.data(), data.size()));
    return result;
}

}  // namespace

void register_memory(py::class_<Model, std::shared_ptr<Model>>& model) {
    model
        .def("memory_use", &memory_of, py::kw_only(), "n_ctx"_a, "n_batch"_a, "n_seq_max"_a,
             "n_outputs_max"_a, "type_k"_a = GGML_TYPE_F16, "type_v"_a = GGML_TYPE_F16,
             "swa_full"_a = true, "n_tokens"_a = 0)
        .def("weight_data", &weight_data, "name"_a)
        .def("cache_tensors", &caches_of, py::kw_only(), "n_ctx"_a, "n_batch"_a, "n_seq_max"_a,
             "type_k"_a = GGML_TYPE_F16, "type_v"_a = GGML_TYPE_F16, "swa_full"_a = true);
}

}  // namespace apex::bind
