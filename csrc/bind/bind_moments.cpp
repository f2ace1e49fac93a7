#include <optional>

#include "bind/arrays.h"
#include "bind/options.h"
#include "bind/types.h"
#include "core/quantize_rows.h"
#include "moments/input_choices.h"
#include "moments/row_groups.h"
#include "moments/weight_moment.h"

namespace apex::bind {
namespace {

using DoubleArray = py::array_t<double, py::array::c_style>;

// (bytes (rows, row bytes), costs float32 (rows,), the damped moment float32 (n, n))
py::tuple feedback_rows(const FloatArray& weights, ggml_type target, const DoubleArray& moment,
                        const FeedbackOptions& options) {
    if (weights.ndim() != 2) fail<InvalidArgument>("weights: expected shape (rows, n_per_row)");
    const int64_t n = weights.shape(1), n_rows = weights.shape(0);
    require_size(moment, n * n, "moment");
    if (!has_feedback(target) || n % ggml_blck_size(target) != 0) {
        fail<InvalidArgument>("no error feedback into ", ggml_type_name(target), " for rows of ",
                              n);
    }
    const size_t size = row_bytes(target, n);
    ByteArray result({n_rows, static_cast<int64_t>(size)});
    FloatArray costs(n_rows), damped({n, n});
    const float* source = weights.data();
    uint8_t* bytes = result.mutable_data();
    float *costs_to = costs.mutable_data(), *damped_to = damped.mutable_data();
    {
        const py::gil_scoped_release unlocked;
        const FeedbackBasis basis = make_basis(moment.data(), n, options.damping);
        const FeedbackRows rows(target, basis, options.effort);
        std::vector<uint8_t> start(static_cast<size_t>(n_rows) * size);
        quantize_rows(target, source, start.data(), n_rows, n, basis.importance.data());
        rows.quantize(source, n_rows, start.data(), bytes, costs_to);
        std::copy(basis.moment.begin(), basis.moment.end(), damped_to);
    }
    return py::make_tuple(result, costs, damped);
}

DoubleArray moment_of_weight(const StoredTensor& tensor, const std::optional<FloatArray>& scales,
                             int n_threads) {
    if (scales) require_size(*scales, tensor.rows.n_per_row, "scales");
    const float* factors = scales ? scales->data() : nullptr;
    std::vector<double> found;
    {
        const py::gil_scoped_release unlocked;
        found = weight_moment(tensor, factors, n_threads);
    }
    return DoubleArray(static_cast<py::ssize_t>(found.size()), found.data());
}

}  // namespace

void register_moments(py::module_& module) {
    py::class_<Trust>(module, "Trust", "How far a collected moment is trusted.")
        .def(py::init(
                 [](double shrink, double layer_tokens) { return Trust{shrink, layer_tokens}; }),
             py::kw_only(), "shrink"_a, "layer_tokens"_a)
        .def_readonly("shrink", &Trust::shrink)
        .def_readonly("layer_tokens", &Trust::layer_tokens);
    OptionsClass<FeedbackOptions>(module, "FeedbackOptions", "How error feedback searches.")
        .field("damping", &FeedbackOptions::damping)
        .field("trusts", &FeedbackOptions::trusts)
        .field("sampled_rows", &FeedbackOptions::sampled_rows)
        .field("min_held_out", &FeedbackOptions::min_held_out)
        .field("scale_radius", &FeedbackOptions::effort, &FeedbackEffort::scale_radius)
        .field("refine_radius", &FeedbackOptions::effort, &FeedbackEffort::refine_radius)
        .field("max_passes", &FeedbackOptions::effort, &FeedbackEffort::max_passes)
        .field("max_grid_passes", &FeedbackOptions::effort, &FeedbackEffort::max_grid_passes)
        .field("max_rounds", &FeedbackOptions::effort, &FeedbackEffort::max_rounds)
        .field("max_grid_rounds", &FeedbackOptions::effort, &FeedbackEffort::max_grid_rounds)
        .field("max_round_columns", &FeedbackOptions::effort, &FeedbackEffort::max_round_columns);
    module.def("can_reorder", &can_reorder, "tensor"_a,
               "Whether rows of the tensor can be read in another order: not computed ones.");
    module.def(
        "weight_moment", &moment_of_weight, "tensor"_a, py::arg("scales").noconvert() = py::none(),
        py::kw_only(), "n_threads"_a,
        "float64, packed: W^T W over all rows of a tensor, its columns times float32 scales.");
    module.def("has_feedback", &has_feedback, "type"_a,
               "Whether error feedback has a format for the type.");
    module.def("feedback_rows", &feedback_rows, py::arg("weights").noconvert(), "type"_a,
               py::arg("moment").noconvert(), py::kw_only(), "options"_a = FeedbackOptions{},
               "float32 rows quantized under a dense float64 moment; GIL released.");
}

}  // namespace apex::bind
