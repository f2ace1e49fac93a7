#include <optional>

#include "bind/arrays.h"
#include "bind/types.h"
#include "moments/feedback_tensor.h"
#include "moments/grouped_tensor.h"
#include "moments/products.h"
#include "moments/row_groups.h"

namespace apex::bind {
namespace {

using CountsArray = py::array_t<int64_t, py::array::c_style>;
using GroupsArray = py::array_t<int32_t, py::array::c_style>;

using Owners = std::vector<py::object>;

// Keeps the Python objects whose memory the workers read: those of all tensors beside it too, which
// choose for each other.
class Choices : public InputChoices {
  public:
    Choices(MomentSource source, FeedbackOptions options, Owners owners)
        : InputChoices(std::move(source), std::move(options)), owners_(std::move(owners)) {}

    void keep(py::object owner) { owners_.push_back(std::move(owner)); }

  private:
    Owners owners_;
};

// Second moments of one input, as the arguments of a call.
struct MomentArrays {
    const FloatArray &total, &part;
    const CountsArray &counts, &part_counts;

    // Throws InvalidArgument where they are not of as many matrices of n columns as counts.
    void require_columns(int64_t n) const {
        require_size(part_counts, counts.size(), "part_counts");
        require_size(total, counts.size() * packed_size(n), "total");
        require_size(part, total.size(), "part");
    }
    Owners owners() const { return {total, part, counts, part_counts}; }
    MomentSource source(int64_t n, int n_threads) const {
        return {n,           counts.size(), total.data(),
                part.data(), counts.data(), part_counts.data(),
                n_threads};
    }
    // Of one matrix alone.
    MomentSource source_of(int64_t matrix, int64_t n) const {
        const int64_t at = matrix * packed_size(n);
        return {n,
                1,
                total.data() + at,
                part.data() + at,
                counts.data() + matrix,
                part_counts.data() + matrix};
    }
};

std::shared_ptr<Choices> make_choices(const MomentArrays& arrays, int64_t n,
                                      FeedbackOptions options, int n_threads) {
    arrays.require_columns(n);
    MomentSource moments = [&] {
        const py::gil_scoped_release unlocked;  // adds up a layer's experts
        return arrays.source(n, n_threads);
    }();
    return std::make_shared<Choices>(std::move(moments), std::move(options), arrays.owners());
}

// The choices of another tensor's feedback, which reads the same input.
std::shared_ptr<Choices> choices_beside(const RowsConverter& beside, const MomentArrays& arrays) {
    const auto* tensor = dynamic_cast<const FeedbackTensor*>(&beside);
    auto found =
        tensor == nullptr ? nullptr : std::dynamic_pointer_cast<Choices>(tensor->choices());
    if (found == nullptr || found->source().total(0) != arrays.total.data()) {
        fail<InvalidArgument>("beside: expected feedback() under the same second moments");
    }
    return found;
}

std::shared_ptr<RowsConverter> make_feedback(
    const StoredTensor& source, ggml_type type, const std::optional<FloatArray>& imatrix,
    const FloatArray& total, const FloatArray& part, const CountsArray& counts,
    const CountsArray& part_counts, FeedbackOptions options,
    std::shared_ptr<FeedbackDevices> devices, int n_threads,
    const std::shared_ptr<RowsConverter>& beside) {
    QuantizeTask task;
    task.source = source;
    task.target_type = type;
    const TensorRows& rows = task.source.rows;
    if (imatrix) {
        require_size(*imatrix, rows.n_per_row * rows.n_slices, "imatrix");
        task.imatrix = imatrix->data();
    }
    const MomentArrays arrays{total, part, counts, part_counts};
    const std::shared_ptr<Choices> choices =
        beside ? choices_beside(*beside, arrays)
               : make_choices(arrays, rows.n_per_row, std::move(options), n_threads);
    if (imatrix) choices->keep(*imatrix);
    if (!device_has_feedback(type, rows.n_per_row)) devices.reset();
    return std::make_shared<FeedbackTensor>(task, choices, std::move(devices));
}

// Keeps the Python objects whose memory the parts read.
class GroupedFeedback : public GroupedTensor {
  public:
    GroupedFeedback(ggml_type type, int64_t n, std::vector<int32_t> groups,
                    std::vector<std::unique_ptr<RowsConverter>> parts, Owners owners)
        : GroupedTensor(type, n, std::move(groups), std::move(parts)), owners_(std::move(owners)) {}

  private:
    Owners owners_;
};

// A moment for each group of rows.
std::shared_ptr<RowsConverter> make_grouped_feedback(
    const StoredTensor& source, ggml_type type, const GroupsArray& groups,
    const std::optional<FloatArray>& imatrix, const FloatArray& total, const FloatArray& part,
    const CountsArray& counts, const CountsArray& part_counts, const FeedbackOptions& options,
    std::shared_ptr<FeedbackDevices> devices) {
    if (!device_has_feedback(type, source.rows.n_per_row)) devices.reset();
    const int64_t n = source.rows.n_per_row;
    const MomentArrays arrays{total, part, counts, part_counts};
    require_size(groups, source.rows.n_rows(), "groups");
    arrays.require_columns(n);
    if (imatrix) require_size(*imatrix, n, "imatrix");
    Owners owners = arrays.owners();
    if (imatrix) owners.push_back(*imatrix);
    std::vector<int32_t> of_rows(groups.data(), groups.data() + groups.size());
    std::vector<std::unique_ptr<RowsConverter>> parts;
    for (int64_t i = 0; i < counts.size(); ++i) {
        QuantizeTask task;
        task.source = rows_of_group(source, of_rows, static_cast<int32_t>(i));
        task.target_type = type;
        task.imatrix = imatrix ? imatrix->data() : nullptr;
        parts.push_back(std::make_unique<FeedbackTensor>(
            task, std::make_shared<InputChoices>(arrays.source_of(i, n), options), devices));
    }
    return std::make_shared<GroupedFeedback>(type, n, std::move(of_rows), std::move(parts),
                                             std::move(owners));
}

}  // namespace

void register_feedback(py::module_& module) {
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
               "beside"_a = std::shared_ptr<RowsConverter>{},
               "Error feedback for a tensor: packed float32 moments (slices, packed) of all tokens "
               "and of the part, int64 counts; on GPUs for types that they can do. beside: of "
               "another tensor of the same type and moments, whose options hold for both.");
    module.def("device_has_feedback", &device_has_feedback, "type"_a, "n_per_row"_a,
               "Whether GPUs do error feedback for the type and rows of this length.");
    module.def("grouped_feedback", &make_grouped_feedback, "source"_a, "type"_a, py::kw_only(),
               py::arg("groups").noconvert(), py::arg("imatrix").noconvert() = py::none(),
               py::arg("total").noconvert(), py::arg("part").noconvert(),
               py::arg("counts").noconvert(), py::arg("part_counts").noconvert(),
               "options"_a = FeedbackOptions{}, "devices"_a = std::shared_ptr<FeedbackDevices>{},
               "The same with a moment for each group of rows; groups: int32, of each row.");
}

}  // namespace apex::bind
