#include "bench/cpu_kernel_bench.h"
#include "bench/cuda_kernel_bench.h"
#include "bench/kernel_bench.h"
#include "bench/speed.h"
#include "bind/arrays.h"
#include "bind/engine.h"
#include "bind/options.h"
#include "bind/types.h"

namespace apex::bind {
namespace {

std::unique_ptr<SpeedTest> make_speed_test(std::shared_ptr<Model> model, SpeedOptions options,
                                           const std::optional<std::string>& flash_attn,
                                           std::shared_ptr<StopFlag> stop) {
    if (flash_attn) options.flash_attention = to_flash_attention(*flash_attn);
    return std::make_unique<SpeedTest>(std::move(model), options, std::move(stop));
}

std::unique_ptr<KernelBench> make_kernel_bench(const std::string& device) {
    if (device == "cpu") return cpu_kernel_bench();
    if (device == "cuda") return cuda_kernel_bench();
    fail<InvalidArgument>("device: expected cpu or cuda, found '", device, "'");
}

py::dict run_kernel(KernelBench& self, const std::string& operation, ggml_type type,
                    const FloatArray& weights, const FloatArray& imatrix, int64_t n_weights,
                    int n_threads, int repetitions, double sample_seconds,
                    std::shared_ptr<StopFlag> stop) {
    if (weights.ndim() != 2) fail<InvalidArgument>("weights: expected shape (rows, n_per_row)");
    require_size(imatrix, weights.shape(1), "imatrix");
    const NamedOperation named = kernel_operation(operation);
    KernelRequest request{named.operation, type,           n_weights,      n_threads,
                          repetitions,     sample_seconds, named.n_columns};
    KernelTile tile{weights.data(), imatrix.data(), weights.shape(0), weights.shape(1)};
    KernelResult result;
    {
        const py::gil_scoped_release unlocked;
        result = self.run(request, tile, [&] { return stop && stop->is_set(); });
    }
    py::list samples;
    for (const KernelSample& sample : result.samples) {
        samples.append(py::make_tuple(sample.n_weights, sample.nanoseconds));
    }
    return py::dict("samples"_a = samples, "n_weights"_a = result.n_weights,
                    "bytes_per_weight"_a = result.bytes_per_weight,
                    "relative_error"_a = result.relative_error);
}

}  // namespace

void register_speed(py::module_& module) {
    OptionsClass<SpeedOptions>(module, "SpeedOptions", "What a SpeedTest computes, and how.")
        .field("n_prompt", &SpeedOptions::n_prompt)
        .field("n_gen", &SpeedOptions::n_gen)
        .field("n_depth", &SpeedOptions::n_depth)
        .field("n_batch", &SpeedOptions::n_batch)
        .field("n_ubatch", &SpeedOptions::n_ubatch)
        .field("type_k", &SpeedOptions::type_k)
        .field("type_v", &SpeedOptions::type_v)
        .field("n_threads", &SpeedOptions::n_threads)
        .field("repetitions", &SpeedOptions::repetitions)
        .field("warm_up", &SpeedOptions::warm_up)
        .field("beyond_context", &SpeedOptions::beyond_context);
    py::class_<SpeedTest>(module, "SpeedTest", "Tokens a second of a model, as llama-bench counts.",
                          py::release_gil_before_calling_cpp_dtor())
        .def(py::init(&make_speed_test), "model"_a, "options"_a, py::kw_only(),
             "flash_attn"_a = py::none(), "stop"_a = std::shared_ptr<StopFlag>{},
             py::call_guard<py::gil_scoped_release>())
        .def("run", &SpeedTest::run, py::call_guard<py::gil_scoped_release>(),
             "Nanoseconds of each repetition.")
        .def_property_readonly("is_finite", &SpeedTest::is_finite)
        .def_property_readonly("tokens_done", &SpeedTest::tokens_done)
        .def_property_readonly("n_tokens", &SpeedTest::n_tokens);

    py::class_<KernelBench>(module, "KernelBench", "How fast a device's kernels are.")
        .def(py::init(&make_kernel_bench), "device"_a)
        .def(
            "supports",
            [](const KernelBench& self, const std::string& operation, ggml_type type) {
                return self.supports(kernel_operation(operation).operation, type);
            },
            "operation"_a, "type"_a)
        .def("run", &run_kernel, py::kw_only(), "operation"_a, "type"_a,
             py::arg("weights").noconvert(), py::arg("imatrix").noconvert(), "n_weights"_a,
             "n_threads"_a, "repetitions"_a, "sample_seconds"_a,
             "stop"_a = std::shared_ptr<StopFlag>{});
    module.def(
        "kernel_moved_bytes",
        [](const std::string& operation, ggml_type type) {
            return moved_bytes(kernel_operation(operation).operation, type);
        },
        "operation"_a, "type"_a, "Bytes of a weight that an operation moves.");
}

}  // namespace apex::bind
