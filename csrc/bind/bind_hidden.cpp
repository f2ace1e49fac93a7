#include "bind/arrays.h"
#include "bind/engine.h"
#include "bind/types.h"
#include "scoring/hidden_pass.h"

namespace apex::bind {
namespace {

std::unique_ptr<HiddenPass> start(const std::shared_ptr<Model>& model, const TokenArray& tokens,
                                  const LaneOptions& options, const std::string& folder,
                                  ggml_type type_k, ggml_type type_v,
                                  const std::shared_ptr<StopFlag>& stop) {
    ModelSourceOptions of_model;
    of_model.type_k = type_k;
    of_model.type_v = type_v;
    auto all_tokens = std::make_shared<const std::vector<llama_token>>(to_tokens(tokens));
    const py::gil_scoped_release unlocked;
    return std::make_unique<HiddenPass>(model, std::move(all_tokens), options, of_model, folder,
                                        stop);
}

// Logits of stored hidden states and of the model itself are compared by tests.
py::array_t<float> compute_head(const HiddenStates& states, const FloatArray& hidden,
                                int n_threads) {
    if (hidden.ndim() != 2) fail<InvalidArgument>("expected hidden states (n, n_embd)");
    const LmHead& head = states.head();
    if (hidden.shape(1) != head.n_embd()) fail<InvalidArgument>("expected rows of ", head.n_embd());
    py::array_t<float> logits({hidden.shape(0), py::ssize_t(head.n_vocab())});
    float* to = logits.mutable_data();
    const py::gil_scoped_release unlocked;
    ThreadPool pool(n_threads);
    head.compute(hidden.data(), hidden.shape(0), to, pool);
    return logits;
}

}  // namespace

void register_hidden(py::module_& module) {
    py::class_<HiddenStates, std::shared_ptr<HiddenStates>>(module, "HiddenStates",
                                                            "A reference without its head.")
        .def("logits", &compute_head, "hidden"_a.noconvert(), py::kw_only(), "n_threads"_a);
    py::class_<HiddenPass>(module, "HiddenPass", "The first of two passes.",
                           py::release_gil_before_calling_cpp_dtor())
        .def(py::init(&start), "model"_a, py::kw_only(), "tokens"_a.noconvert(), "options"_a,
             "folder"_a = std::string{}, "type_k"_a = GGML_TYPE_F16, "type_v"_a = GGML_TYPE_F16,
             "stop"_a = std::shared_ptr<StopFlag>{})
        .def("run", &HiddenPass::run, "first_chunk"_a = 0, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("progress", &HiddenPass::progress)
        .def_property_readonly("states", &HiddenPass::states);
}

}  // namespace apex::bind
