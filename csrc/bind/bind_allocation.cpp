#include "allocation/probe_scorer.h"
#include "bind/allocation.h"
#include "bind/arrays.h"
#include "bind/engine.h"
#include "bind/types.h"

namespace apex::bind {
namespace {

using Value = std::shared_ptr<TensorValue>;

// Keeps alive what the requests point into.
struct Requests {
    std::vector<ValueRequest> wanted;
    std::vector<py::object> arrays;
};

Requests to_requests(const GgufFile& file, const py::list& items, int64_t row_step) {
    Requests requests;
    for (const py::handle& item : items) {
        const auto fields = item.cast<py::tuple>();
        ValueRequest request;
        request.tensor = fields[0].cast<size_t>();
        if (request.tensor >= file.tensors().size()) throw py::index_error("no such tensor");
        request.type = fields[1].cast<ggml_type>();
        request.row_step = row_step;
        const GgufTensor& entry = file.tensors()[request.tensor].entry;
        if (!fields[2].is_none()) {
            const auto values = fields[2].cast<FloatArray>();
            require_size(values, entry.n_per_row() * entry.n_slices(), "imatrix");
            request.imatrix = values.data();
            requests.arrays.push_back(values);
        }
        if (!fields[3].is_none()) {
            const auto bytes = fields[3].cast<ByteArray>();
            const auto n_rows = entry.rows_per_slice() * entry.n_slices();
            require_size(bytes,
                         static_cast<int64_t>(row_bytes(request.type, entry.n_per_row())) * n_rows,
                         "encoded");
            request.encoded = bytes.data();
            requests.arrays.push_back(bytes);
        }
        if (!fields[4].is_none()) {
            const auto converter = fields[4].cast<std::shared_ptr<RowsConverter>>();
            request.converter = converter.get();
            requests.arrays.push_back(py::reinterpret_borrow<py::object>(fields[4]));
        }
        requests.wanted.push_back(request);
    }
    return requests;
}

std::vector<Value> quantize_values(const GgufFile& file, const py::list& items, int n_threads,
                                   int64_t row_step, const std::vector<int>& devices,
                                   const std::shared_ptr<StopFlag>& stop) {
    const Requests requests = to_requests(file, items, row_step);
    const py::gil_scoped_release unlocked;
    std::vector<Value> values;
    for (const auto& value : make_values(file, requests.wanted, {n_threads, devices, stop.get()})) {
        values.push_back(std::const_pointer_cast<TensorValue>(value));
    }
    return values;
}

py::array_t<double> errors(const TensorValue& value) {
    py::array_t<double> result({value.errors.size(), size_t{2}});
    auto rows = result.mutable_unchecked<2>();
    for (size_t i = 0; i < value.errors.size(); ++i) {
        const auto row = static_cast<py::ssize_t>(i);
        rows(row, 0) = value.errors[i].squared_error;
        rows(row, 1) = value.errors[i].squared_weights;
    }
    return result;
}

void run(ProbeScorer& scorer, const TokenArray& tokens,
         const std::vector<std::pair<std::vector<Value>, int32_t>>& candidates) {
    const std::vector<llama_token> all = to_tokens(tokens);
    const py::gil_scoped_release unlocked;
    std::vector<ProbeCandidate> probes;
    for (const auto& [values, first_layer] : candidates) {
        probes.push_back({{values.begin(), values.end()}, first_layer});
    }
    scorer.run(all, probes);
}

template <class T>
py::array_t<T> copied(const std::vector<T>& values) {
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::list scores(const ProbeScorer& scorer) {
    py::list result;
    for (const ProbeScores& one : scorer.scores()) {
        result.append(py::dict("kld"_a = copied(one.kld), "nll"_a = copied(one.nll),
                               "is_same_top"_a = copied(one.is_same_top),
                               "is_finite"_a = copied(one.is_finite)));
    }
    return result;
}

}  // namespace

void register_allocation(py::module_& module) {
    py::class_<TensorValue, Value>(module, "TensorValue", "A tensor's weights in another type.")
        .def_readonly("name", &TensorValue::name)
        .def_property_readonly("type",
                               [](const TensorValue& self) { return static_cast<int>(self.type); })
        .def_property_readonly("nbytes", [](const TensorValue& self) { return self.bytes.size(); })
        .def_property_readonly("encoded",
                               [](const TensorValue& self) { return copied(self.bytes); })
        .def_property_readonly("errors", &errors,
                               "float64 (n_slices, 2): weighted squared error, squared weights.");
    module.def("quantize_values", &quantize_values, "file"_a, "requests"_a, py::kw_only(),
               "n_threads"_a, "row_step"_a = 1, "devices"_a = std::vector<int>{},
               "stop"_a = std::shared_ptr<StopFlag>{},
               "requests: (tensor index, type number, imatrix or None, encoded bytes or None, "
               "RowsConverter "
               "or None).\n"
               "row_step above 1: every so-manieth row of each slice, for its errors only.\n"
               "devices: numbers of GPUs that quantize what they have a kernel for.");
    py::class_<ProbeScorer>(module, "ProbeScorer", "Candidates scored in memory.",
                            py::release_gil_before_calling_cpp_dtor())
        .def(py::init([](const std::vector<std::shared_ptr<Model>>& models, int32_t n_ctx,
                         int n_threads, std::shared_ptr<StopFlag> stop) {
                 const py::gil_scoped_release unlocked;
                 return std::make_unique<ProbeScorer>(models, n_ctx, n_threads, std::move(stop));
             }),
             "models"_a, py::kw_only(), "n_ctx"_a, "n_threads"_a,
             "stop"_a = std::shared_ptr<StopFlag>{})
        .def("run", &run, "tokens"_a.noconvert(), "candidates"_a,
             "candidates: (values, first layer they touch).")
        .def_property_readonly("progress", &ProbeScorer::progress)
        .def_property_readonly("reference_nll",
                               [](const ProbeScorer& self) { return copied(self.reference_nll()); })
        .def_property_readonly("scores", &scores);
}

}  // namespace apex::bind
