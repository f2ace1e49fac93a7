#include "bind/tasks.h"
#include "core/quantize_rows.h"
#include "moments/feedback_tensor.h"
#include "moments/products.h"

namespace apex::bind {
namespace {

using DoubleArray = py::array_t<double, py::array::c_style>;
using CountsArray = py::array_t<int64_t, py::array::c_style>;

FeedbackEffort to_effort(const py::dict& options) {
    FeedbackEffort effort;
    const auto set = [&](const char* name, int& value) {
        if (options.contains(name)) value = options[name].cast<int>();
    };
    set("scale_radius", effort.scale_radius);
    set("refine_radius", effort.refine_radius);
    set("max_passes", effort.max_passes);
    return effort;
}

FeedbackOptions to_options(const py::dict& options) {
    FeedbackOptions result;
    result.effort = to_effort(options);
    if (options.contains("damping")) result.damping = options["damping"].cast<double>();
    if (options.contains("sampled_rows")) {
        result.sampled_rows = options["sampled_rows"].cast<int64_t>();
    }
    if (options.contains("min_held_out")) {
        result.min_held_out = options["min_held_out"].cast<int64_t>();
    }
    if (options.contains("trusts")) {
        result.trusts.clear();
        for (const py::handle& trust : options["trusts"]) {
            const auto [shrink, tokens] = trust.cast<std::pair<double, double>>();
            result.trusts.push_back({shrink, tokens});
        }
    }
    return result;
}

// Keeps the Python objects whose memory the workers read.
class Feedback : public FeedbackTensor {
  public:
    Feedback(const QuantizeTask& task, MomentSource source, FeedbackOptions options,
             std::vector<py::object> owners)
        : FeedbackTensor(task, std::move(source), std::move(options)), owners_(std::move(owners)) {}

  private:
    std::vector<py::object> owners_;
};

std::shared_ptr<RowsConverter> make_feedback(const py::object& file, size_t index, uint32_t type,
                                             const std::optional<FloatArray>& imatrix,
                                             const FloatArray& total, const FloatArray& part,
                                             const CountsArray& counts,
                                             const CountsArray& part_counts,
                                             const py::dict& options) {
    QuantizeTask task = task_for(file.cast<const GgufFile&>(), index, type);
    const TensorRows& rows = task.source.rows;
    const int64_t n_slices = counts.size();
    require_size(part_counts, n_slices, "part_counts");
    require_size(total, n_slices * packed_size(rows.n_per_row), "total");
    require_size(part, total.size(), "part");
    std::vector<py::object> owners = {file, total, part, counts, part_counts};
    if (imatrix) {
        require_size(*imatrix, rows.n_per_row * rows.n_slices, "imatrix");
        task.imatrix = imatrix->data();
        owners.push_back(*imatrix);
    }
    FeedbackOptions feedback = to_options(options);
    MomentSource source = [&] {
        const py::gil_scoped_release unlocked;  // adds up a layer's experts
        return MomentSource(rows.n_per_row, n_slices, total.data(), part.data(), counts.data(),
                            part_counts.data());
    }();
    return std::make_shared<Feedback>(task, std::move(source), std::move(feedback),
                                      std::move(owners));
}

// (bytes (rows, row bytes), costs float32 (rows,), the damped moment float32 (n, n))
py::tuple feedback_rows(const FloatArray& weights, uint32_t type, const DoubleArray& moment,
                        double damping, const py::dict& options) {
    const int64_t n = weights.shape(1), n_rows = weights.shape(0);
    require_size(moment, n * n, "moment");
    const auto target = static_cast<ggml_type>(type);
    if (!is_known_type(type) || !has_feedback(target) || n % ggml_blck_size(target) != 0) {
        fail<InvalidArgument>("no error feedback into type ", type, " for rows of ", n);
    }
    const size_t size = row_bytes(target, n);
    ByteArray result({n_rows, static_cast<int64_t>(size)});
    FloatArray costs(n_rows), damped({n, n});
    const float* source = weights.data();
    uint8_t* bytes = result.mutable_data();
    float *costs_to = costs.mutable_data(), *damped_to = damped.mutable_data();
    const FeedbackEffort effort = to_effort(options);
    {
        const py::gil_scoped_release unlocked;
        const FeedbackBasis basis = make_basis(moment.data(), n, damping);
        const FeedbackRows rows(target, basis, effort);
        std::vector<uint8_t> start(static_cast<size_t>(n_rows) * size);
        quantize_rows(target, source, start.data(), n_rows, n, basis.importance.data());
        rows.quantize(source, n_rows, start.data(), bytes, costs_to);
        std::copy(basis.moment.begin(), basis.moment.end(), damped_to);
    }
    return py::make_tuple(result, costs, damped);
}

}  // namespace

void register_moments(py::module_& module) {
    py::class_<RowsConverter, std::shared_ptr<RowsConverter>>(
        module, "RowsConverter", "How a task of a QuantizeJob is quantized.");
    module.def("feedback", &make_feedback, "file"_a, "index"_a, "type"_a,
               py::arg("imatrix").noconvert(), py::arg("total").noconvert(),
               py::arg("part").noconvert(), py::arg("counts").noconvert(),
               py::arg("part_counts").noconvert(), "options"_a = py::dict(),
               "Error feedback for a tensor: packed float32 moments (slices, packed) of all tokens "
               "and of the part, int64 counts.");
    module.def("has_feedback", [](uint32_t type) {
        return is_known_type(type) && has_feedback(static_cast<ggml_type>(type));
    });
    module.def("feedback_rows", &feedback_rows, py::arg("weights").noconvert(), "type"_a,
               py::arg("moment").noconvert(), "damping"_a, "options"_a = py::dict(),
               "float32 rows quantized under a dense float64 moment; GIL released.");
}

}  // namespace apex::bind
