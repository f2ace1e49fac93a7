#include "bind/arrays.h"
#include "scoring/softmax.h"

namespace apex::bind {
namespace {

py::tuple to_tuple(const SoftmaxScore& score) {
    return py::make_tuple(score.nll, score.kld, score.top_probability, score.top, score.is_finite);
}

// Rows of one position: the reference's and, stacked, the candidates'.
py::list score(const FloatArray& reference, const FloatArray& candidates, int32_t target,
               bool is_coded) {
    if (reference.ndim() != 1 || candidates.ndim() != 2) {
        fail<InvalidArgument>("expected reference (n_vocab,) and candidates (n, n_vocab)");
    }
    const int64_t n_vocab = reference.size();
    const auto n_candidates = static_cast<size_t>(candidates.shape(0));
    require_size(candidates, candidates.shape(0) * n_vocab, "candidates");
    check_target(target, n_vocab);
    std::vector<const float*> rows;
    for (size_t i = 0; i < n_candidates; ++i) {
        rows.push_back(candidates.data() + static_cast<int64_t>(i) * n_vocab);
    }
    SoftmaxScore first;
    std::vector<SoftmaxScore> others(n_candidates);
    SoftmaxScratch scratch;
    {
        const py::gil_scoped_release unlocked;
        const auto call = is_coded ? score_rows_coded : score_rows;
        call(reference.data(), rows.data(), n_candidates, n_vocab, target, &first, others.data(),
             scratch);
    }
    py::list result;
    result.append(to_tuple(first));
    for (const SoftmaxScore& other : others) result.append(to_tuple(other));
    return result;
}

py::tuple score_alone(const FloatArray& logits, int32_t target) {
    check_target(target, logits.size());
    return to_tuple(score_row(logits.data(), logits.size(), target));
}

}  // namespace

void register_softmax(py::module_& module) {
    module.def("score_rows", &score, py::kw_only(), "reference"_a.noconvert(),
               "candidates"_a.noconvert(), "target"_a, "is_coded"_a = false,
               "(nll, kld, top_probability, top, is_finite) of the reference and each candidate.");
    module.def("score_row", &score_alone, "logits"_a.noconvert(), "target"_a);
}

}  // namespace apex::bind
