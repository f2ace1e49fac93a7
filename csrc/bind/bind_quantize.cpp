#include <optional>

#include "bind/arrays.h"
#include "bind/types.h"
#include "core/quantizer.h"

namespace apex::bind {
namespace {

py::dict output_errors(const OutputErrors& found) {
    return py::dict("error"_a = found.error, "ggml_error"_a = found.ggml_error,
                    "signal"_a = found.signal, "held_out_error"_a = found.held_out_error,
                    "held_out_ggml_error"_a = found.held_out_ggml_error,
                    "n_slices"_a = found.n_slices, "n_kept"_a = found.n_kept);
}

// A task, and what keeps the memory that its workers read.
struct OwningTask {
    QuantizeTask task;
    std::optional<FloatArray> imatrix;
    std::shared_ptr<RowsConverter> converter;
};

OwningTask make_task(const StoredTensor& source, ggml_type type, int output_fd,
                     uint64_t output_offset, std::optional<FloatArray> imatrix,
                     std::shared_ptr<RowsConverter> converter) {
    OwningTask made;
    made.task.source = source;
    made.task.target_type = type;
    made.task.output_fd = output_fd;
    made.task.output_offset = output_offset;
    if (imatrix) {
        require_size(*imatrix, source.rows.n_per_row * source.rows.n_slices, "imatrix");
        made.task.imatrix = imatrix->data();
    }
    made.task.converter = converter.get();
    made.imatrix = std::move(imatrix);
    made.converter = std::move(converter);
    return made;
}

class QuantizeJob {
  public:
    QuantizeJob(std::vector<OwningTask> tasks, int n_threads, uint64_t max_memory,
                std::vector<int> devices, double verify_rate, std::vector<size_t> group_sizes)
        : tasks_(std::move(tasks)) {
        std::vector<QuantizeTask> converted;
        converted.reserve(tasks_.size());
        for (const OwningTask& task : tasks_) converted.push_back(task.task);
        QuantizeOptions options;
        options.n_threads = n_threads;
        options.max_memory = max_memory;
        options.devices = std::move(devices);
        options.verify_rate = verify_rate;
        options.group_sizes = std::move(group_sizes);
        const py::gil_scoped_release unlocked;  // search tables take seconds to build
        quantizer_ = std::make_shared<Quantizer>(std::move(converted), options);
    }

    ~QuantizeJob() { close(); }
    QuantizeJob(const QuantizeJob&) = delete;
    QuantizeJob& operator=(const QuantizeJob&) = delete;

    // [(task, squared error, squared weights, checksum)] of tensors finished since the last call.
    py::list wait(int timeout_ms) {
        // Ours, so that a close() in another thread does not take it away.
        const std::shared_ptr<Quantizer> quantizer = running();
        std::vector<TensorDone> news;
        {
            const py::gil_scoped_release unlocked;
            news = quantizer->wait(timeout_ms);
        }
        py::list result;
        for (const TensorDone& done : news) {
            result.append(
                py::make_tuple(done.task, done.squared_error, done.squared_weights, done.checksum));
        }
        return result;
    }

    py::object output_errors_of(size_t task) const {
        if (task >= tasks_.size()) throw py::index_error("task out of range");
        if (!tasks_[task].converter) return py::none();
        return output_errors(tasks_[task].converter->errors());
    }

    bool finished() const { return running()->finished(); }
    uint64_t source_bytes_done() const { return running()->source_bytes_done(); }
    int n_threads() const { return running()->n_threads(); }
    int64_t device_rows() const { return running()->device_rows(); }
    int64_t verified_rows() const { return running()->verified_rows(); }

    // Stops the workers and waits for them: at most one unit each.
    void close() {
        if (!quantizer_) return;
        const std::shared_ptr<Quantizer> quantizer = std::move(quantizer_);
        const py::gil_scoped_release unlocked;
        quantizer->stop();
    }

  private:
    const std::shared_ptr<Quantizer>& running() const {
        if (!quantizer_) fail<InvalidArgument>("this job was closed");
        return quantizer_;
    }

    std::vector<OwningTask> tasks_;
    std::shared_ptr<Quantizer> quantizer_;
};

py::list list_cuda_devices() {
    std::vector<DeviceInfo> devices;
    {
        const py::gil_scoped_release unlocked;  // the first call starts the driver
        devices = list_devices();
    }
    py::list result;
    for (const DeviceInfo& device : devices) {
        result.append(py::dict("number"_a = device.number, "name"_a = device.name,
                               "compute_capability"_a = py::make_tuple(device.major, device.minor),
                               "total_bytes"_a = device.total_bytes,
                               "free_bytes"_a = device.free_bytes));
    }
    return result;
}

}  // namespace

void register_quantize(py::module_& module) {
    py::class_<RowsConverter, std::shared_ptr<RowsConverter>>(
        module, "RowsConverter", "How a task of a QuantizeJob is quantized.")
        .def(
            "errors", [](const RowsConverter& self) { return output_errors(self.errors()); },
            "Of outputs, once every row was converted.");
    py::class_<OwningTask>(module, "QuantizeTask", "One tensor's way into an open file.")
        .def(py::init(&make_task), "source"_a, "type"_a, py::kw_only(), "output_fd"_a,
             "output_offset"_a, py::arg("imatrix").noconvert() = py::none(),
             "converter"_a = std::shared_ptr<RowsConverter>{},
             "imatrix: float32, a value for each column of each slice.");
    py::class_<QuantizeJob>(module, "QuantizeJob",
                            "Quantizes stored tensors into open files, on all cores.")
        .def(py::init<std::vector<OwningTask>, int, uint64_t, std::vector<int>, double,
                      std::vector<size_t>>(),
             "tasks"_a, py::kw_only(), "n_threads"_a, "max_memory"_a,
             "devices"_a = std::vector<int>(), "verify_rate"_a = 0.0,
             "group_sizes"_a = std::vector<size_t>(),
             "devices: numbers of GPUs. verify_rate: share of their rows the CPU does again. "
             "group_sizes: how many tasks that follow each other read one tensor together.")
        .def("wait", &QuantizeJob::wait, "timeout_ms"_a)
        .def("output_errors", &QuantizeJob::output_errors_of, "task"_a,
             "Of a finished task; None where it has no converter.")
        .def("close", &QuantizeJob::close)
        .def_property_readonly("finished", &QuantizeJob::finished)
        .def_property_readonly("source_bytes_done", &QuantizeJob::source_bytes_done)
        .def_property_readonly("n_threads", &QuantizeJob::n_threads)
        .def_property_readonly("device_rows", &QuantizeJob::device_rows)
        .def_property_readonly("verified_rows", &QuantizeJob::verified_rows);
    module.def("cuda_devices", &list_cuda_devices,
               "GPUs as dictionaries; DeviceError where there is none or the build has no CUDA.");
}

}  // namespace apex::bind
