#include "bind/arrays.h"
#include "bind/engine.h"
#include "bind/options.h"
#include "bind/types.h"
#include "scoring/lanes.h"

namespace apex::bind {
namespace {

std::unique_ptr<Scorer> start(const Reference& reference, const std::vector<Candidate>& candidates,
                              const TokenArray& tokens, const LaneOptions& options,
                              std::shared_ptr<StopFlag> stop) {
    auto all_tokens = std::make_shared<const std::vector<llama_token>>(to_tokens(tokens));
    const py::gil_scoped_release unlocked;
    return make_scorer(reference, candidates, std::move(all_tokens), options, std::move(stop));
}

void register_options(py::module_& module) {
    OptionsClass<LaneOptions>(module, "LaneOptions", "How the chunks of a text are computed.")
        .field("n_ctx", &LaneOptions::shape, &ChunkShape::n_ctx)
        .field("n_sequences", &LaneOptions::shape, &ChunkShape::n_sequences)
        .field("n_positions", &LaneOptions::shape, &ChunkShape::n_positions)
        .field("n_lanes", &LaneOptions::n_lanes)
        .field("n_threads", &LaneOptions::n_threads)
        .field("with_routes", &LaneOptions::with_routes);
    OptionsClass<Candidate>(module, "Candidate", "A model to be scored; n_chunks None: all.")
        .field("model", &Candidate::model)
        .field("hidden", &Candidate::hidden)
        .field("type_k", &Candidate::type_k)
        .field("type_v", &Candidate::type_v)
        .field("n_parts", &Candidate::n_parts)
        .field("n_chunks", &Candidate::n_chunks);
    OptionsClass<BaseReference>(module, "BaseReference", "A base file from one of its chunks on.")
        .field("file", &BaseReference::file)
        .field("first_chunk", &BaseReference::first_chunk);
    OptionsClass<RecordedReference>(module, "RecordedReference",
                                    "A model whose hidden states are recorded on the way.")
        .field("model", &RecordedReference::model)
        .field("states", &RecordedReference::states);
}

// The finished part of a score, copied.
template <class T>
py::array_t<T> finished(size_t n, const std::vector<T>& values) {
    return py::array_t<T>(static_cast<py::ssize_t>(std::min(n, values.size())), values.data());
}

py::dict scores(size_t n, const TokenScores& values) {
    return py::dict("nll"_a = finished(n, values.nll), "kld"_a = finished(n, values.kld),
                    "top_probability"_a = finished(n, values.top_probability),
                    "is_same_top"_a = finished(n, values.is_same_top),
                    "is_finite"_a = finished(n, values.is_finite));
}

py::dict agreement(const Scorer& scorer, size_t i) {
    py::dict layers;
    for (const auto& [layer, count] : scorer.router_agreement(i)) {
        layers[py::int_(layer)] =
            py::make_tuple(count.n_tokens, count.n_same_set, count.n_same_first);
    }
    return layers;
}

void register_base_file(py::module_& module) {
    py::class_<BaseFile, std::shared_ptr<BaseFile>>(module, "BaseFile",
                                                    "llama-perplexity's log-probabilities.")
        .def(py::init([](const std::string& path) {
                 return std::const_pointer_cast<BaseFile>(BaseFile::open(path));
             }),
             "path"_a, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("n_ctx", &BaseFile::n_ctx)
        .def_property_readonly("n_vocab", &BaseFile::n_vocab)
        .def_property_readonly("n_chunks", &BaseFile::n_chunks)
        .def_property_readonly("tokens",
                               [](const BaseFile& self) { return to_array(self.tokens()); });
}

}  // namespace

void register_score(py::module_& module) {
    register_base_file(module);
    register_options(module);
    py::class_<Scorer>(module, "Scorer", "An evaluation in lockstep.",
                       py::release_gil_before_calling_cpp_dtor())
        .def(py::init(&start), py::kw_only(), "reference"_a = Reference{}, "candidates"_a,
             "tokens"_a.noconvert(), "options"_a, "stop"_a = std::shared_ptr<StopFlag>{})
        .def("run", &Scorer::run, py::call_guard<py::gil_scoped_release>())
        .def("score_on_host_only", &Scorer::score_on_host_only)
        .def(
            "write_base",
            [](Scorer& self, int descriptor, const TokenArray& tokens) {
                if (!self.has_reference()) fail<InvalidArgument>("there is no reference to write");
                self.observe_reference(std::make_unique<BaseFileWriter>(
                    descriptor, self.shape(), static_cast<int32_t>(self.n_vocab()),
                    to_tokens(tokens)));
            },
            "descriptor"_a, "tokens"_a.noconvert())
        .def_property_readonly("n_vocab", &Scorer::n_vocab)
        .def_property_readonly("n_chunks", &Scorer::n_chunks)
        .def_property_readonly("n_chunks_done", &Scorer::n_chunks_done)
        .def_property_readonly("progress", &Scorer::progress)
        .def("reference_scores",
             [](const Scorer& self) {
                 return scores(self.n_reference_finished(), self.reference_scores());
             })
        .def(
            "candidate_scores",
            [](const Scorer& self, size_t i) {
                return scores(self.n_finished(i), self.candidate_scores(i));
            },
            "i"_a)
        .def("router_agreement", &agreement, "i"_a);
}

}  // namespace apex::bind
