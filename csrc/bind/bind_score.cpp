#include "bind/arrays.h"
#include "bind/engine.h"
#include "model/base_file.h"
#include "model/score_statistics.h"
#include "model/scorer.h"

namespace apex::bind {
namespace {

using DoubleArray = py::array_t<double, py::array::c_style>;

// One candidate: (model, type_k, type_v, n_parts, n_chunks); 0 chunks are all.
using CandidateTuple = std::tuple<std::shared_ptr<Model>, uint32_t, uint32_t, int32_t, int32_t>;

struct Setup {
    ChunkShape shape;
    ChunkTokens tokens;
    std::shared_ptr<ThreadPool> pool;
    std::shared_ptr<const StopFlag> stop;
    bool with_routes;

    std::unique_ptr<LogitsSource> source(std::shared_ptr<Model> model, ggml_type type_k,
                                         ggml_type type_v, int32_t n_parts) const {
        // Parts leave the routers' tokens in another order.
        const ModelSourceOptions options{type_k, type_v, with_routes && n_parts == 1, n_parts};
        return std::make_unique<ModelSource>(std::move(model), pool, shape, tokens, options, stop);
    }
};

std::unique_ptr<LogitsSource> reference_source(const Setup& setup, std::shared_ptr<Model> model,
                                               std::shared_ptr<BaseFile> base,
                                               int32_t first_chunk) {
    if (model) return setup.source(std::move(model), GGML_TYPE_F16, GGML_TYPE_F16, 1);
    if (!base) return nullptr;
    return std::make_unique<BaseFileSource>(std::move(base), setup.pool, setup.shape, first_chunk);
}

std::unique_ptr<Scorer> make_scorer(std::shared_ptr<Model> reference,
                                    std::shared_ptr<BaseFile> base, int32_t first_chunk,
                                    const std::vector<CandidateTuple>& candidates,
                                    const TokenArray& tokens, int32_t n_ctx, int32_t n_sequences,
                                    int32_t n_positions, bool with_routes, int n_threads,
                                    std::shared_ptr<StopFlag> stop) {
    const Setup setup{
        {n_ctx, n_sequences, n_positions},
        std::make_shared<const std::vector<llama_token>>(to_tokens(tokens)),
        nullptr,
        std::move(stop),
        with_routes};
    const py::gil_scoped_release unlocked;
    Setup ready = setup;
    ready.pool = std::make_shared<ThreadPool>(n_threads);
    auto source = reference_source(ready, std::move(reference), std::move(base), first_chunk);
    std::vector<ScoredSource> sources;
    for (const auto& [model, type_k, type_v, n_parts, n_chunks] : candidates) {
        sources.push_back({ready.source(model, to_type(type_k), to_type(type_v), n_parts),
                           n_chunks == 0 ? INT32_MAX : n_chunks});
    }
    return std::make_unique<Scorer>(std::move(source), std::move(sources), ready.shape,
                                    ready.tokens, ready.pool);
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

py::tuple to_tuple(const Estimate& value) {
    return py::make_tuple(value.mean, value.error);
}

py::dict compare(const DoubleArray& reference_nll, const ByteArray& reference_is_finite,
                 const DoubleArray& nll, const DoubleArray& kld, const ByteArray& is_same_top,
                 const ByteArray& is_finite, const std::vector<double>& kld_fractions,
                 const std::vector<double>& delta_p_fractions) {
    const int64_t n = reference_nll.size();
    require_size(reference_is_finite, n, "reference_is_finite");
    require_size(nll, n, "nll");
    require_size(kld, n, "kld");
    require_size(is_same_top, n, "is_same_top");
    require_size(is_finite, n, "is_finite");
    const ScoredPositions positions{static_cast<size_t>(n), reference_nll.data(),
                                    reference_is_finite.data(), nll.data(), kld.data(),
                                    is_same_top.data(), is_finite.data()};
    ComparisonStatistics found;
    {
        const py::gil_scoped_release unlocked;
        found = compare_with_reference(positions, kld_fractions, delta_p_fractions);
    }
    return py::dict("n_positions"_a = found.n_positions, "n_not_finite"_a = found.n_not_finite,
                    "nll"_a = to_tuple(found.nll),
                    "reference_nll"_a = to_tuple(found.reference_nll),
                    "log_ratio"_a = to_tuple(found.log_ratio),
                    "correlation"_a = found.correlation, "kld"_a = to_tuple(found.kld),
                    "kld_quantiles"_a = found.kld_quantiles, "delta_p"_a = to_tuple(found.delta_p),
                    "delta_p_rms"_a = to_tuple(found.delta_p_rms),
                    "delta_p_quantiles"_a = found.delta_p_quantiles,
                    "same_top"_a = to_tuple(found.same_top));
}

py::tuple estimate_of(const DoubleArray& values) {
    const std::vector<double> copy(values.data(), values.data() + values.size());
    return to_tuple(estimate(copy));
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
             "base"_a = std::shared_ptr<BaseFile>{}, "first_chunk"_a = 0, "candidates"_a,
             "tokens"_a.noconvert(), "n_ctx"_a, "n_sequences"_a, "n_positions"_a,
             "with_routes"_a = false, "n_threads"_a, "stop"_a = std::shared_ptr<StopFlag>{})
        .def("run", &Scorer::run, py::call_guard<py::gil_scoped_release>())
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
    module.def("compare_with_reference", &compare, py::kw_only(), "reference_nll"_a.noconvert(),
               "reference_is_finite"_a.noconvert(), "nll"_a.noconvert(), "kld"_a.noconvert(),
               "is_same_top"_a.noconvert(), "is_finite"_a.noconvert(), "kld_fractions"_a,
               "delta_p_fractions"_a, "llama-perplexity's statistics of scored positions.");
    module.def("estimate", &estimate_of, "values"_a.noconvert(), "Mean and standard error.");
}

}  // namespace apex::bind
