#include "bench/cpu_kernel_bench.h"
#include "bench/cuda_kernel_bench.h"
#include "bench/kernel_bench.h"
#include "bench/speed.h"
#include "bind/arrays.h"
#include "bind/engine.h"

namespace apex::bind {
namespace {

std::unique_ptr<SpeedTest> make_speed_test(std::shared_ptr<Model> model, int64_t n_prompt,
                                           int64_t n_gen, int64_t n_depth, uint32_t n_batch,
                                           uint32_t n_ubatch, uint32_t type_k, uint32_t type_v,
                                           int n_threads, int repetitions, bool warm_up,
                                           bool beyond_context, std::shared_ptr<StopFlag> stop) {
    SpeedOptions options;
    options.n_prompt = n_prompt;
    options.n_gen = n_gen;
    options.n_depth = n_depth;
    options.n_batch = n_batch;
    options.n_ubatch = n_ubatch;
    options.type_k = to_type(type_k);
    options.type_v = to_type(type_v);
    options.n_threads = n_threads;
    options.repetitions = repetitions;
    options.warm_up = warm_up;
    options.beyond_context = beyond_context;
    const py::gil_scoped_release unlocked;
    return std::make_unique<SpeedTest>(std::move(model), options, std::move(stop));
}

std::unique_ptr<KernelBench> make_kernel_bench(const std::string& device) {
    if (device == "cpu") return cpu_kernel_bench();
    if (device == "cuda") return cuda_kernel_bench();
    fail<InvalidArgument>("device: expected cpu or cuda, found '", device, "'");
}

py::dict run_kernel(KernelBench& self, const std::string& operation, uint32_t type,
                    const FloatArray& weights, const FloatArray& imatrix, int64_t n_weights,
                    int n_threads, int repetitions, double sample_seconds,
                    std::shared_ptr<StopFlag> stop) {
    if (weights.ndim() != 2) fail<InvalidArgument>("weights: expected shape (rows, n_per_row)");
    require_size(imatrix, weights.shape(1), "imatrix");
    const NamedOperation named = kernel_operation(operation);
    KernelRequest request{named.operation, to_type(type),  n_weights,      n_threads,
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
    py::class_<SpeedTest>(module, "SpeedTest", "Tokens a second of a model, as llama-bench counts.",
                          py::release_gil_before_calling_cpp_dtor())
        .def(py::init(&make_speed_test), "model"_a, py::kw_only(), "n_prompt"_a, "n_gen"_a,
             "n_depth"_a, "n_batch"_a, "n_ubatch"_a, "type_k"_a, "type_v"_a, "n_threads"_a,
             "repetitions"_a, "warm_up"_a, "beyond_context"_a, "stop"_a)
        .def("run", &SpeedTest::run, py::call_guard<py::gil_scoped_release>(),
             "Nanoseconds of each repetition.")
        .def_property_readonly("tokens_done", &SpeedTest::tokens_done)
        .def_property_readonly("n_tokens", &SpeedTest::n_tokens);

    py::class_<KernelBench>(module, "KernelBench", "How fast a device's kernels are.")
        .def(py::init(&make_kernel_bench), "device"_a)
        .def(
            "supports",
            [](const KernelBench& self, const std::string& operation, uint32_t type) {
                return self.supports(kernel_operation(operation).operation, to_type(type));
            },
            "operation"_a, "type"_a)
        .def("run", &run_kernel, py::kw_only(), "operation"_a, "type"_a,
             py::arg("weights").noconvert(), py::arg("imatrix").noconvert(), "n_weights"_a,
             "n_threads"_a, "repetitions"_a, "sample_seconds"_a,
             "stop"_a = std::shared_ptr<StopFlag>{});
    module.def(
        "kernel_moved_bytes",
        [](const std::string& operation, uint32_t type) {
            return moved_bytes(kernel_operation(operation).operation, to_type(type));
        },
        "operation"_a, "type"_a, "Bytes of a weight that an operation moves.");
}

}  // namespace apex::bind
