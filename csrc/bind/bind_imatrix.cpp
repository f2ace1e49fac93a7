#include "bind/engine.h"
#include "calibration/imatrix_run.h"
#include "core/error.h"

namespace apex::bind {
namespace {

using SumsArray = py::array_t<double, py::array::c_style>;
using CountsArray = py::array_t<int64_t, py::array::c_style>;

ImatrixScope to_scope(const std::string& name) {
    if (name == "everything") return ImatrixScope::everything;
    if (name == "upstream") return ImatrixScope::upstream;
    fail<InvalidArgument>("scope: expected everything or upstream, found '", name, "'");
}

std::shared_ptr<ImatrixRun> start(std::shared_ptr<Model> model, uint32_t n_ctx, uint32_t n_batch,
                                  uint32_t n_ubatch, int n_threads, const std::string& scope,
                                  bool moments, const std::vector<std::string>& weights,
                                  bool output_rows, std::shared_ptr<StopFlag> stop) {
    const ImatrixOptions options{n_ctx,           n_batch, n_ubatch, n_threads,
                                 to_scope(scope), moments, weights,  output_rows};
    const py::gil_scoped_release unlocked;
    return std::make_shared<ImatrixRun>(std::move(model), options, std::move(stop));
}

void add_chunks(ImatrixRun& run, const TokenArray& tokens, bool in_part) {
    std::vector<llama_token> copied = to_tokens(tokens);
    const py::gil_scoped_release unlocked;
    run.add_chunks(std::move(copied), in_part);
}

void record_chunks(ImatrixRun& run, const TokenArray& tokens, GroupRecord& record) {
    std::vector<llama_token> copied = to_tokens(tokens);
    const py::gil_scoped_release unlocked;
    run.record_chunks(std::move(copied), record);
}

// [(weight, sums (matrices, n_per_row), counts (experts or 1,), of the MTP block)]
template <typename Sums>
py::list entries(Sums& run) {
    py::list result;
    for (const bool of_mtp_block : {false, true}) {
        for (const auto& [weight, entry] : run.totals(of_mtp_block).read()) {
            const auto n_values = static_cast<py::ssize_t>(entry.sums.size());
            const auto n_per_row = static_cast<py::ssize_t>(entry.n_per_row);
            const SumsArray sums({n_values / n_per_row, n_per_row}, entry.sums.data());
            const CountsArray counts(static_cast<py::ssize_t>(entry.counts.size()),
                                     entry.counts.data());
            result.append(py::make_tuple(weight, sums, counts, of_mtp_block));
        }
    }
    return result;
}

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

// {input: (total (matrices, packed), part, counts (matrices,), part counts)}; the moments are views
// that later chunks change.
py::dict moments(const std::shared_ptr<ImatrixRun>& run) {
    const py::object owner = py::cast(run);
    py::dict result;
    for (const auto& [input, moment] : moments_of(*run).moments()) {
        const auto n = static_cast<py::ssize_t>(moment.counts.size());
        const auto packed = static_cast<py::ssize_t>(moment.total.size()) / n;
        result[py::str(input)] = py::make_tuple(SumsArray({n, packed}, moment.total.data(), owner),
                                                SumsArray({n, packed}, moment.part.data(), owner),
                                                CountsArray(n, moment.counts.data()),
                                                CountsArray(n, moment.part_counts.data()));
    }
    return result;
}

// (group of each row int32, total (groups, packed), part, weights of tokens (groups,), the part's)
py::tuple output_moments(ImatrixRun& run, int n_groups) {
    std::vector<int32_t> groups;
    GroupMoments found;
    {
        const py::gil_scoped_release unlocked;
        found = run.output_moments(n_groups, groups);
    }
    const auto n = static_cast<py::ssize_t>(found.weights.size());
    const auto packed = static_cast<py::ssize_t>(found.total.size()) / n;
    return py::make_tuple(
        py::array_t<int32_t>(static_cast<py::ssize_t>(groups.size()), groups.data()),
        SumsArray({n, packed}, found.total.data()), SumsArray({n, packed}, found.part.data()),
        SumsArray(n, found.weights.data()), SumsArray(n, found.part_weights.data()));
}

void restore_moment(ImatrixRun& run, const std::string& input, int64_t n_per_row,
                    const SumsArray& total, const SumsArray& part, const CountsArray& counts,
                    const CountsArray& part_counts) {
    InputMoment moment;
    moment.n_per_row = n_per_row;
    moment.total.assign(total.data(), total.data() + total.size());
    moment.part.assign(part.data(), part.data() + part.size());
    moment.counts.assign(counts.data(), counts.data() + counts.size());
    moment.part_counts.assign(part_counts.data(), part_counts.data() + part_counts.size());
    moments_of(run).restore(input, std::move(moment));
}

template <typename Sums>
void restore(Sums& run, const std::string& weight, const SumsArray& sums, const CountsArray& counts,
             bool of_mtp_block) {
    if (sums.ndim() != 2) fail<InvalidArgument>(weight, ": expected sums in two dimensions");
    ImatrixSums entry;
    entry.n_per_row = sums.shape(1);
    entry.sums.assign(sums.data(), sums.data() + sums.size());
    entry.counts.assign(counts.data(), counts.data() + counts.size());
    run.totals(of_mtp_block).restore(weight, std::move(entry));
}

}  // namespace

void register_imatrix(py::module_& module) {
    py::class_<ImatrixRun, std::shared_ptr<ImatrixRun>>(
        module, "ImatrixRun", "Collects an importance matrix, group of chunks by group of chunks.",
        py::release_gil_before_calling_cpp_dtor())
        .def(py::init(&start), "model"_a, py::kw_only(), "n_ctx"_a, "n_batch"_a, "n_ubatch"_a,
             "n_threads"_a, "scope"_a, "moments"_a = false,
             "weights"_a = std::vector<std::string>(), "output_rows"_a = false,
             "stop"_a = std::shared_ptr<StopFlag>{})
        .def("add_chunks", &add_chunks, "tokens"_a.noconvert(), "in_part"_a = false)
        .def("record_chunks", &record_chunks, "tokens"_a.noconvert(), "record"_a)
        .def("known_inputs", &known_inputs)
        .def("moments", &moments)
        .def("output_moments", &output_moments, "n_groups"_a)
        .def("moment_inputs", [](ImatrixRun& run) { return moments_of(run).inputs(); })
        .def("restore_moment", &restore_moment, "input"_a, "n_per_row"_a, "total"_a.noconvert(),
             "part"_a.noconvert(), "counts"_a.noconvert(), "part_counts"_a.noconvert())
        .def("restore_input",
             [](ImatrixRun& run, const std::string& weight, const std::string& input) {
                 moments_of(run).restore_share(weight, input);
             })
        .def("sum_on_host_only", &ImatrixRun::sum_on_host_only)
        .def("entries", &entries<ImatrixRun>)
        .def("restore", &restore<ImatrixRun>, "weight"_a, "sums"_a.noconvert(),
             "counts"_a.noconvert(), "of_mtp_block"_a)
        .def_property_readonly("n_seq", &ImatrixRun::n_seq)
        .def_property_readonly("n_tokens_of_group", &ImatrixRun::n_tokens_of_group)
        .def_property_readonly("mtp_reason", &ImatrixRun::mtp_reason);
    py::class_<GroupRecord>(module, "GroupRecord",
                            "The squares of one group of chunks, to be added to RecordedSums.",
                            py::release_gil_before_calling_cpp_dtor())
        .def(py::init<>())
        .def_property_readonly("n_bytes", &GroupRecord::n_bytes);
    py::class_<RecordedSums>(module, "RecordedSums",
                             "Sums of groups that several runs recorded, added in the given order.",
                             py::release_gil_before_calling_cpp_dtor())
        .def(py::init<int>(), py::kw_only(), "n_threads"_a)
        .def("add", &RecordedSums::add, "record"_a, py::call_guard<py::gil_scoped_release>())
        .def("entries", &entries<RecordedSums>)
        .def("restore", &restore<RecordedSums>, "weight"_a, "sums"_a.noconvert(),
             "counts"_a.noconvert(), "of_mtp_block"_a);
}

}  // namespace apex::bind
