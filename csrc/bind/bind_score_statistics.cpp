#include "bind/arrays.h"
#include "scoring/score_statistics.h"

namespace apex::bind {
namespace {

using DoubleArray = py::array_t<double, py::array::c_style>;

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
    const ScoredPositions positions{static_cast<size_t>(n),
                                    reference_nll.data(),
                                    reference_is_finite.data(),
                                    nll.data(),
                                    kld.data(),
                                    is_same_top.data(),
                                    is_finite.data()};
    ComparisonStatistics found;
    {
        const py::gil_scoped_release unlocked;
        found = compare_with_reference(positions, kld_fractions, delta_p_fractions);
    }
    return py::dict(
        "n_positions"_a = found.n_positions, "n_not_finite"_a = found.n_not_finite,
        "nll"_a = to_tuple(found.nll), "reference_nll"_a = to_tuple(found.reference_nll),
        "log_ratio"_a = to_tuple(found.log_ratio), "correlation"_a = found.correlation,
        "kld"_a = to_tuple(found.kld), "kld_quantiles"_a = found.kld_quantiles,
        "delta_p"_a = to_tuple(found.delta_p), "delta_p_rms"_a = to_tuple(found.delta_p_rms),
        "delta_p_quantiles"_a = found.delta_p_quantiles, "same_top"_a = to_tuple(found.same_top));
}

py::tuple estimate_of(const DoubleArray& values) {
    const std::vector<double> copy(values.data(), values.data() + values.size());
    return to_tuple(estimate(copy));
}

}  // namespace

void register_score_statistics(py::module_& module) {
    module.def("compare_with_reference", &compare, py::kw_only(), "reference_nll"_a.noconvert(),
               "reference_is_finite"_a.noconvert(), "nll"_a.noconvert(), "kld"_a.noconvert(),
               "is_same_top"_a.noconvert(), "is_finite"_a.noconvert(), "kld_fractions"_a,
               "delta_p_fractions"_a, "llama-perplexity's statistics of scored positions.");
    module.def("estimate", &estimate_of, "values"_a.noconvert(), "Mean and standard error.");
}

}  // namespace apex::bind
