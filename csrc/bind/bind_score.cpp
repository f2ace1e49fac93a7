#include "bind/arrays.h"
#include "bind/engine.h"
#include "scoring/base_file.h"
#include "scoring/hidden_states.h"
#include "scoring/scorer.h"

namespace apex::bind {
namespace {

// One candidate: (model, type_k, type_v, n_parts, n_chunks); 0 chunks are all, -1 is none.
using CandidateTuple = std::tuple<std::shared_ptr<Model>, uint32_t, uint32_t, int32_t, int32_t>;

// What all lanes are made of.
struct Setup {
    std::shared_ptr<Model> reference;
    std::shared_ptr<BaseFile> base;
    std::shared_ptr<HiddenStates> hidden;
    int32_t first_chunk;
    std::vector<CandidateTuple> candidates;
    ChunkShape shape;
    ChunkTokens tokens;
    bool with_routes;
    std::shared_ptr<const StopFlag> stop;

    Lane lane(int n_threads) const {
        Lane made;
        made.pool = std::make_shared<ThreadPool>(n_threads);
        if (reference) {
            made.reference = source(made, {reference, GGML_TYPE_F16, GGML_TYPE_F16, 1, 0});
        } else if (base) {
            made.reference = std::make_unique<BaseFileSource>(base, made.pool, shape, first_chunk);
        } else if (hidden) {
            made.reference =
                std::make_unique<HiddenSource>(hidden, made.pool, with_routes, device());
        }
        for (const CandidateTuple& candidate : candidates) {
            made.candidates.push_back(source(made, candidate));
        }
        return made;
    }

    // The GPU that a candidate computes on computes the reference's head too.
    ggml_backend_dev_t device() const {
        return candidates.empty() ? nullptr : std::get<0>(candidates.front())->gpu();
    }

    std::unique_ptr<LogitsSource> source(const Lane& lane, const CandidateTuple& candidate) const {
        const auto& [model, type_k, type_v, n_parts, n_chunks] = candidate;
        // Parts leave the routers' tokens in another order.
        const ModelSourceOptions options{to_type(type_k), to_type(type_v),
                                         with_routes && n_parts == 1, n_parts};
        return std::make_unique<ModelSource>(model, lane.pool, shape, tokens, options, stop);
    }
};

std::unique_ptr<Scorer> make_scorer(std::shared_ptr<Model> reference,
                                    std::shared_ptr<BaseFile> base,
                                    std::shared_ptr<HiddenStates> hidden, int32_t first_chunk,
                                    const std::vector<CandidateTuple>& candidates,
                                    const TokenArray& tokens, int32_t n_ctx, int32_t n_sequences,
                                    int32_t n_positions, bool with_routes, int n_lanes,
                                    int n_threads, std::shared_ptr<StopFlag> stop) {
    if (n_lanes < 1) fail<InvalidArgument>("n_lanes: expected at least 1, found ", n_lanes);
    auto all_tokens = std::make_shared<const std::vector<llama_token>>(to_tokens(tokens));
    const py::gil_scoped_release unlocked;
    const Setup setup{std::move(reference),  std::move(base), std::move(hidden),
                      first_chunk,           candidates,      {n_ctx, n_sequences, n_positions},
                      std::move(all_tokens), with_routes,     std::move(stop)};
    std::vector<Lane> lanes;
    for (int i = 0; i < n_lanes; ++i) lanes.push_back(setup.lane(n_threads));
    std::vector<int32_t> limits;
    for (const CandidateTuple& candidate : candidates) {
        const int32_t n_chunks = std::get<4>(candidate);
        limits.push_back(n_chunks == 0 ? INT32_MAX : n_chunks);
    }
    return std::make_unique<Scorer>(std::move(lanes), std::move(limits), setup.shape, setup.tokens);
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
    py::class_<Scorer>(module, "Scorer", "An evaluation in lockstep.",
                       py::release_gil_before_calling_cpp_dtor())
        .def(py::init(&make_scorer), py::kw_only(), "reference"_a = std::shared_ptr<Model>{},
             "base"_a = std::shared_ptr<BaseFile>{}, "hidden"_a = std::shared_ptr<HiddenStates>{},
             "first_chunk"_a = 0, "candidates"_a, "tokens"_a.noconvert(), "n_ctx"_a,
             "n_sequences"_a, "n_positions"_a, "with_routes"_a = false, "n_lanes"_a = 1,
             "n_threads"_a, "stop"_a = std::shared_ptr<StopFlag>{})
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
