#include <optional>

#include "bind/arrays.h"
#include "bind/options.h"
#include "bind/types.h"
#include "core/quantize_rows.h"
#include "moments/feedback_tensor.h"
#include "moments/grouped_tensor.h"
#include "moments/products.h"
#include "moments/row_groups.h"
#include "moments/weight_moment.h"

namespace apex::bind {
namespace {

using DoubleArray = py::array_t<double, py::array::c_style>;
using CountsArray = py::array_t<int64_t, py::array::c_style>;
using GroupsArray = py::array_t<int32_t, py::array::c_style>;

// Keeps the Python objects whose memory the workers read.
class Feedback : public FeedbackTensor {
  public:
    Feedback(const QuantizeTask& task, MomentSource source, FeedbackOptions options,
             std::shared_ptr<FeedbackDevices> devices, std::vector<py::object> owners)
        : FeedbackTensor(task, std::move(source), std::move(options), std::move(devices)),
          owners_(std::move(owners)) {}

  private:
    std::vector<py::object> owners_;
};

std::shared_ptr<RowsConverter> make_feedback(
    const StoredTensor& source, ggml_type type, const std::optional<FloatArray>& imatrix,
    const FloatArray& total, const FloatArray& part, const CountsArray& counts,
    const CountsArray& part_counts, FeedbackOptions options,
    std::shared_ptr<FeedbackDevices> devices, int n_threads) {
    QuantizeTask task;
    task.source = source;
    task.target_type = type;
    const TensorRows& rows = task.source.rows;
    const int64_t n_slices = counts.size();
    require_size(part_counts, n_slices, "part_counts");
    require_size(total, n_slices * packed_size(rows.n_per_row), "total");
    require_size(part, total.size(), "part");
    std::vector<py::object> owners = {total, part, counts, part_counts};
    if (imatrix) {
        require_size(*imatrix, rows.n_per_row * rows.n_slices, "imatrix");
        task.imatrix = imatrix->data();
        owners.push_back(*imatrix);
    }
    MomentSource moments = [&] {
        const py::gil_scoped_release unlocked;  // adds up a layer's experts
        return MomentSource(rows.n_per_row, n_slices, total.data(), part.data(), counts.data(),
                            part_counts.data(), n_threads);
    }();
    if (!device_has_feedback(type, rows.n_per_row)) devices.reset();
    return std::make_shared<Feedback>(task, std::move(moments), std::move(options),
                                      std::move(devices), std::move(owners));
}

// Keeps the Python objects whose memory the parts read.
class GroupedFeedback : public GroupedTensor {
  public:
    GroupedFeedback(ggml_type type, int64_t n, std::vector<int32_t> groups,
                    std::vector<std::unique_ptr<RowsConverter>> parts,
                    std::vector<py::object> owners)
        : GroupedTensor(type, n, std::move(groups), std::move(parts)), owners_(std::move(owners)) {}

  private:
    std::vector<py::object> owners_;
};

// A moment for each group of rows.
std::shared_ptr<RowsConverter> make_grouped_feedback(
    const StoredTensor& source, ggml_type type, const GroupsArray& groups,
    const std::optional<FloatArray>& imatrix, const FloatArray& total, const FloatArray& part,
    const CountsArray& counts, const CountsArray& part_counts, const FeedbackOptions& options,
    std::shared_ptr<FeedbackDevices> devices) {
    if (!device_has_feedback(type, source.rows.n_per_row)) devices.reset();
    const int64_t n = source.rows.n_per_row, n_groups = counts.size(), packed = packed_size(n);
    require_size(groups, source.rows.n_rows(), "groups");
    require_size(part_counts, n_groups, "part_counts");
    require_size(total, n_groups * packed, "total");
    require_size(part, total.size(), "part");
    if (imatrix) require_size(*imatrix, n, "imatrix");
    std::vector<py::object> owners = {total, part, counts, part_counts};
    if (imatrix) owners.push_back(*imatrix);
    std::vector<int32_t> of_rows(groups.data(), groups.data() + groups.size());
    std::vector<std::unique_ptr<RowsConverter>> parts;
    for (int64_t i = 0; i < n_groups; ++i) {
        QuantizeTask task;
        task.source = rows_of_group(source, of_rows, static_cast<int32_t>(i));
        task.target_type = type;
        task.imatrix = imatrix ? imatrix->data() : nullptr;
        parts.push_back(std::make_unique<FeedbackTensor>(
            task,
            MomentSource(n, 1, total.data() + i * packed, part.data() + i * packed,
                         counts.data() + i, part_counts.data() + i),
            options, devices));
    }
    return std::make_shared<GroupedFeedback>(type, n, std::move(of_rows), std::move(parts),
                                             std::move(owners));
}

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
        .field("max_round_columns", &FeedbackOptions::effort, &FeedbackEffort::max_round_columns);
    py::class_<FeedbackDevices, std::shared_ptr<FeedbackDevices>>(
        module, "FeedbackDevices", "GPUs that do error feedback; memory is taken as it is needed.",
        py::release_gil_before_calling_cpp_dtor())
        .def(py::init(&make_feedback_devices), "devices"_a, py::kw_only(), "n_places"_a,
             "n_per_row"_a);
    module.def("feedback", &make_feedback, "source"_a, "type"_a, py::kw_only(),
               py::arg("imatrix").noconvert() = py::none(), py::arg("total").noconvert(),
               py::arg("part").noconvert(), py::arg("counts").noconvert(),
               py::arg("part_counts").noconvert(), "options"_a = FeedbackOptions{},
               "devices"_a = std::shared_ptr<FeedbackDevices>{}, "n_threads"_a = 1,
               "Error feedback for a tensor: packed float32 moments (slices, packed) of all tokens "
               "and of the part, int64 counts; on GPUs for types that they can do.");
    module.def("device_has_feedback", &device_has_feedback, "type"_a, "n_per_row"_a,
               "Whether GPUs do error feedback for the type and rows of this length.");
    module.def("grouped_feedback", &make_grouped_feedback, "source"_a, "type"_a, py::kw_only(),
               py::arg("groups").noconvert(), py::arg("imatrix").noconvert() = py::none(),
               py::arg("total").noconvert(), py::arg("part").noconvert(),
               py::arg("counts").noconvert(), py::arg("part_counts").noconvert(),
               "options"_a = FeedbackOptions{}, "devices"_a = std::shared_ptr<FeedbackDevices>{},
               "The same with a moment for each group of rows; groups: int32, of each row.");
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
