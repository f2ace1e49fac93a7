#include "bind/module.h"
#include "bind/text.h"
#include "model/load_check.h"
#include "model/upstream_quantize.h"

namespace apex::bind {
namespace {

py::dict check(const std::string& path, const std::string& text, int n_threads) {
    LoadCheck result;
    {
        const py::gil_scoped_release unlocked;
        result = load_check(path, text, n_threads);
    }
    return py::dict("description"_a = readable_text(result.description), "kind"_a = result.kind,
                    "n_parameters"_a = result.n_parameters, "n_vocab"_a = result.n_vocab,
                    "n_tokens"_a = result.n_tokens, "mean_nll"_a = result.mean_nll,
                    "all_outputs_equal"_a = result.all_outputs_equal);
}

void upstream(const std::string& source, const std::string& target, int ftype, int n_threads,
              bool pure, bool allow_requantize,
              std::vector<std::pair<std::string, int>> tensor_types,
              std::map<std::string, std::vector<float>> imatrix) {
    UpstreamQuantizeOptions options;
    options.ftype = ftype;
    options.n_threads = n_threads;
    options.pure = pure;
    options.allow_requantize = allow_requantize;
    options.tensor_types = std::move(tensor_types);
    options.imatrix = std::move(imatrix);
    upstream_quantize(source, target, options);
}

}  // namespace

void register_model(py::module_& module) {
    module.def("load_check", &check, "path"_a, "text"_a, py::kw_only(), "n_threads"_a,
               "Loads a file in llama.cpp and decodes text; GIL released.");
    module.def("upstream_quantize", &upstream, "source"_a, "target"_a, py::kw_only(), "ftype"_a,
               "n_threads"_a = 1, "pure"_a = false, "allow_requantize"_a = false,
               "tensor_types"_a = std::vector<std::pair<std::string, int>>{},
               "imatrix"_a = std::map<std::string, std::vector<float>>{},
               py::call_guard<py::gil_scoped_release>(),
               "llama_model_quantize itself: the oracle of the parity tests.");
}

}  // namespace apex::bind
