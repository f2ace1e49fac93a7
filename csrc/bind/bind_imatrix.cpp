#include "bind/engine.h"
#include "bind/imatrix_class.h"
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
                                  bool output_rows, std::shared_ptr<BorderStates> from,
                                  std::shared_ptr<BorderStates> record,
                                  std::shared_ptr<StopFlag> stop) {
    ImatrixOptions options{n_ctx,           n_batch, n_ubatch, n_threads,
                           to_scope(scope), moments, weights,  output_rows};
    options.start = std::move(from);
    options.record = std::move(record);
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
    register_border_states(module);
    ImatrixRunClass run(module, "ImatrixRun",
                        "Collects an importance matrix, group of chunks by group of chunks.",
                        py::release_gil_before_calling_cpp_dtor());
    run.def(py::init(&start), "model"_a, py::kw_only(), "n_ctx"_a, "n_batch"_a, "n_ubatch"_a,
            "n_threads"_a, "scope"_a, "moments"_a = false, "weights"_a = std::vector<std::string>(),
            "output_rows"_a = false, "start"_a = std::shared_ptr<BorderStates>{},
            "record"_a = std::shared_ptr<BorderStates>{}, "stop"_a = std::shared_ptr<StopFlag>{})
        .def("add_chunks", &add_chunks, "tokens"_a.noconvert(), "in_part"_a = false)
        .def("record_chunks", &record_chunks, "tokens"_a.noconvert(), "record"_a)
        .def("sum_on_host_only", &ImatrixRun::sum_on_host_only)
        .def("entries", &entries<ImatrixRun>)
        .def("restore", &restore<ImatrixRun>, "weight"_a, "sums"_a.noconvert(),
             "counts"_a.noconvert(), "of_mtp_block"_a)
        .def_property_readonly("n_seq", &ImatrixRun::n_seq)
        .def_property_readonly("n_tokens_of_group", &ImatrixRun::n_tokens_of_group)
        .def_property_readonly("mtp_reason", &ImatrixRun::mtp_reason);
    add_moment_methods(run);
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
