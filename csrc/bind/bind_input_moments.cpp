#include "bind/arrays.h"
#include "bind/imatrix_class.h"
#include "core/error.h"

namespace apex::bind {
namespace {

using SumsArray = py::array_t<double, py::array::c_style>;
using CountsArray = py::array_t<int64_t, py::array::c_style>;

InputMoments& moments_of(ImatrixRun& run) {
    if (run.moments() == nullptr) fail<InvalidArgument>("this run collects no second moments");
    return *run.moments();
}

// [(weights that read it, n_per_row, matrices)]
py::list known_inputs(const ImatrixRun& run) {
    py::list result;
    for (const KnownInput& input : run.known_inputs()) {
        result.append(py::make_tuple(input.weights, input.n_per_row, input.n_matrices));
    }
    return result;
}

// {input: (part (matrices, packed), rest, counts (matrices,), part counts)}; the moments are views
// that later chunks change.
py::dict moments(const std::shared_ptr<ImatrixRun>& run) {
    const py::object owner = py::cast(run);
    py::dict result;
    for (const auto& [input, moment] : moments_of(*run).read()) {
        const auto n = static_cast<py::ssize_t>(moment.counts.size());
        const auto packed = static_cast<py::ssize_t>(moment.part.size()) / n;
        result[py::str(input)] = py::make_tuple(SumsArray({n, packed}, moment.part.data(), owner),
                                                SumsArray({n, packed}, moment.rest.data(), owner),
                                                CountsArray(n, moment.counts.data()),
                                                CountsArray(n, moment.part_counts.data()));
    }
    return result;
}

// (group of each row int32, part (groups, packed), rest, weights of tokens (groups,) of both)
py::tuple output_moments(ImatrixRun& run, int n_groups) {
    std::vector<int32_t> groups;
    GroupMoments found;
    {
        const py::gil_scoped_release unlocked;
        found = run.output_moments(n_groups, groups);
    }
    const auto n = static_cast<py::ssize_t>(found.part.weights.size());
    const auto packed = static_cast<py::ssize_t>(found.part.sums.size()) / n;
    return py::make_tuple(
        py::array_t<int32_t>(static_cast<py::ssize_t>(groups.size()), groups.data()),
        SumsArray({n, packed}, found.part.sums.data()),
        SumsArray({n, packed}, found.rest.sums.data()), SumsArray(n, found.part.weights.data()),
        SumsArray(n, found.rest.weights.data()));
}

// {input: (n_per_row, matrices)}
py::dict moment_shapes(ImatrixRun& run) {
    py::dict result;
    for (const auto& [weight, input] : moments_of(run).inputs()) {
        const InputMoment& moment = moments_of(run).shape(input);
        result[py::str(input)] = py::make_tuple(moment.n_per_row, moment.n_matrices());
    }
    return result;
}

// (counts, part counts), int64; the sums go into total and part.
py::tuple take_moment(ImatrixRun& run, const std::string& input, FloatArray& total,
                      FloatArray& part) {
    const InputMoment& moment = moments_of(run).shape(input);
    require_size(total, static_cast<int64_t>(moment.n_sums()), "total");
    require_size(part, static_cast<int64_t>(moment.n_sums()), "part");
    float *total_to = total.mutable_data(), *part_to = part.mutable_data();
    {
        const py::gil_scoped_release unlocked;
        run.take_moment(input, total_to, part_to);
    }
    const auto n = static_cast<py::ssize_t>(moment.counts.size());
    return py::make_tuple(CountsArray(n, moment.counts.data()),
                          CountsArray(n, moment.part_counts.data()));
}

void restore_moment(ImatrixRun& run, const std::string& input, int64_t n_per_row,
                    const SumsArray& part, const SumsArray& rest, const CountsArray& counts,
                    const CountsArray& part_counts) {
    InputMoment moment;
    moment.n_per_row = n_per_row;
    moment.part.assign(part.data(), part.data() + part.size());
    moment.rest.assign(rest.data(), rest.data() + rest.size());
    moment.counts.assign(counts.data(), counts.data() + counts.size());
    moment.part_counts.assign(part_counts.data(), part_counts.data() + part_counts.size());
    moments_of(run).restore(input, std::move(moment));
}

}  // namespace

void register_border_states(py::module_& module) {
    py::class_<BorderStates, std::shared_ptr<BorderStates>>(
        module, "BorderStates", "Hidden states that go into a layer, of a whole pass over a text.")
        .def(py::init([](int layer) {
                 auto states = std::make_shared<BorderStates>();
                 states->layer = layer;
                 return states;
             }),
             "layer"_a)
        .def_readonly("layer", &BorderStates::layer)
        .def_property_readonly("nbytes", &BorderStates::n_bytes);
}

void add_moment_methods(ImatrixRunClass& run) {
    run.def("known_inputs", &known_inputs)
        .def("moments", &moments)
        .def("output_moments", &output_moments, "n_groups"_a)
        .def("moment_shapes", &moment_shapes)
        .def("take_moment", &take_moment, "input"_a, "total"_a.noconvert(), "part"_a.noconvert())
        .def("moment_inputs", [](ImatrixRun& self) { return moments_of(self).inputs(); })
        .def("restore_moment", &restore_moment, "input"_a, "n_per_row"_a, "part"_a.noconvert(),
             "rest"_a.noconvert(), "counts"_a.noconvert(), "part_counts"_a.noconvert())
        .def("restore_input",
             [](ImatrixRun& self, const std::string& weight, const std::string& input) {
                 moments_of(self).restore_share(weight, input);
             });
}

}  // namespace apex::bind
