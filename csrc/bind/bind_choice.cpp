#include "bind/engine.h"
#include "bind/types.h"
#include "core/error.h"
#include "tasks/choice_score.h"
#include "tasks/task_selection.h"

namespace apex::bind {
namespace {

using OffsetArray = py::array_t<int64_t, py::array::c_style>;
using ByteArray = py::array_t<uint8_t, py::array::c_style>;
using DoubleArray = py::array_t<double, py::array::c_style>;

std::vector<int64_t> to_offsets(const OffsetArray& array) {
    return {array.data(), array.data() + array.size()};
}

std::unique_ptr<ChoiceScorer> make_scorer(std::shared_ptr<Model> model, int n_threads,
                                          uint32_t n_ubatch, ggml_type type_k, ggml_type type_v,
                                          uint32_t n_ctx, uint64_t max_state_bytes,
                                          std::shared_ptr<StopFlag> stop) {
    ChoiceOptions options;
    options.n_ubatch = n_ubatch;
    options.type_k = type_k;
    options.type_v = type_v;
    options.n_ctx = n_ctx;
    options.max_state_bytes = max_state_bytes;
    return std::make_unique<ChoiceScorer>(std::move(model), n_threads, options, std::move(stop));
}

DoubleArray score(ChoiceScorer& self, const TokenArray& tokens, const OffsetArray& sequence_begin,
                  const OffsetArray& scored_begin, const OffsetArray& task_begin,
                  const py::object& before) {
    const ChoiceTasks tasks{to_tokens(tokens), to_offsets(sequence_begin), to_offsets(scored_begin),
                            to_offsets(task_begin)};
    FinishedGroups done;
    if (!before.is_none()) {
        const auto pair = before.cast<std::pair<ByteArray, DoubleArray>>();
        done.groups.assign(pair.first.data(), pair.first.data() + pair.first.size());
        done.log_probs.assign(pair.second.data(), pair.second.data() + pair.second.size());
    }
    std::vector<double> log_probs;
    {
        const py::gil_scoped_release unlocked;
        log_probs = self.score(tasks, done);
    }
    return DoubleArray(static_cast<py::ssize_t>(log_probs.size()), log_probs.data());
}

py::tuple finished(const ChoiceScorer& self) {
    const FinishedGroups done = self.finished();
    return py::make_tuple(
        ByteArray(static_cast<py::ssize_t>(done.groups.size()), done.groups.data()),
        DoubleArray(static_cast<py::ssize_t>(done.log_probs.size()), done.log_probs.data()));
}

}  // namespace

void register_choice(py::module_& module) {
    const ChoiceOptions defaults;
    py::class_<ChoiceScorer>(module, "ChoiceScorer",
                             "Log-probabilities of the answers to many tasks.",
                             py::release_gil_before_calling_cpp_dtor())
        .def(py::init(&make_scorer), "model"_a, py::kw_only(), "n_threads"_a,
             "n_ubatch"_a = defaults.n_ubatch, "type_k"_a = defaults.type_k,
             "type_v"_a = defaults.type_v, "n_ctx"_a = defaults.n_ctx,
             "max_state_bytes"_a = defaults.max_state_bytes, "stop"_a = std::shared_ptr<StopFlag>{})
        .def("score", &score, "tokens"_a.noconvert(), "sequence_begin"_a.noconvert(),
             "scored_begin"_a.noconvert(), "task_begin"_a.noconvert(), "before"_a = py::none())
        .def("finished", &finished, "(groups that are finished, log-probabilities so far).")
        .def_property_readonly("n_tokens_done", &ChoiceScorer::n_tokens_done)
        .def_property_readonly("n_tokens", &ChoiceScorer::n_tokens)
        .def_property_readonly("n_steps", &ChoiceScorer::n_steps);
    module.def("draw_uniform", &draw_uniform, "n_items"_a, "n"_a,
               "The items that llama-perplexity asks of a HellaSwag file.");
    module.def("draw_scaled", &draw_scaled, "n_items"_a, "n"_a,
               "The items that llama-perplexity asks of other task files.");
}

}  // namespace apex::bind
