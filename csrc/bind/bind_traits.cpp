#include "bind/engine.h"
#include "model/finite_check.h"
#include "model/model_check.h"

namespace apex::bind {
namespace {

py::dict to_dict(const ModelTraits& traits) {
    return py::dict("vocabulary"_a = traits.vocabulary, "encoder"_a = traits.encoder,
                    "decoder"_a = traits.decoder, "next_token"_a = traits.next_token,
                    "pooled"_a = traits.pooled);
}

py::dict model_traits(const std::string& path, std::shared_ptr<StopFlag> stop) {
    ModelTraits traits;
    {
        const py::gil_scoped_release unlocked;
        const ModelFile file = check_model_file(path);
        traits = trial_load(file.shards.front(), file.architecture, {}, stop);
    }
    return to_dict(traits);
}

std::string first_bad_node(std::shared_ptr<Model> model, const TokenArray& tokens, int n_threads,
                           std::shared_ptr<StopFlag> stop) {
    const std::vector<llama_token> list = to_tokens(tokens);
    const py::gil_scoped_release unlocked;
    return first_non_finite(std::move(model), list, n_threads, std::move(stop));
}

}  // namespace

void register_traits(py::module_& module) {
    module.def("model_traits", &model_traits, "path"_a, "stop"_a = std::shared_ptr<StopFlag>{},
               "What a model can do, from a trial load without weights in a child process.");
    module.def(
        "traits_of", [](const Model& model) { return to_dict(model.traits()); }, "model"_a,
        "What a loaded model can do.");
    module.def("first_non_finite", &first_bad_node, "model"_a, "tokens"_a.noconvert(),
               py::kw_only(), "n_threads"_a, "stop"_a = std::shared_ptr<StopFlag>{},
               "Name of the first hidden state that is not finite, empty where all are.");
}

}  // namespace apex::bind
