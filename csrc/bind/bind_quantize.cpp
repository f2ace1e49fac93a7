#include "bind/arrays.h"
#include "core/checks.h"
#include "core/quantizer.h"

namespace apex::bind {
namespace {

// Keeps the Python objects whose memory the workers read.
class QuantizeJob {
  public:
    QuantizeJob(const py::list& tasks, int n_threads, uint64_t max_memory, std::vector<int> devices,
                double verify_rate) {
        std::vector<QuantizeTask> converted;
        converted.reserve(tasks.size());
        for (const py::handle& item : tasks) converted.push_back(to_task(item));
        QuantizeOptions options;
        options.n_threads = n_threads;
        options.max_memory = max_memory;
        options.devices = std::move(devices);
        options.verify_rate = verify_rate;
        const py::gil_scoped_release unlocked;  // search tables take seconds to build
        quantizer_ = std::make_shared<Quantizer>(std::move(converted), options);
    }

    ~QuantizeJob() { close(); }
    QuantizeJob(const QuantizeJob&) = delete;
    QuantizeJob& operator=(const QuantizeJob&) = delete;

    // [(task, squared error, squared weights)] of tensors finished since the last call.
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
            result.append(py::make_tuple(done.task, done.squared_error, done.squared_weights));
        }
        return result;
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

    QuantizeTask to_task(const py::handle& item) {
        const auto fields = item.cast<py::tuple>();
        QuantizeTask task;
        task.source = fields[0].cast<const StoredTensor&>();
        const auto type = fields[1].cast<uint32_t>();
        if (!is_known_type(type)) fail<InvalidArgument>("ggml type number ", type, " is unknown");
        task.target_type = static_cast<ggml_type>(type);
        task.output_fd = fields[2].cast<int>();
        task.output_offset = fields[3].cast<uint64_t>();
        if (!fields[4].is_none()) task.imatrix = keep_imatrix(task, fields[4]);
        return task;
    }

    const float* keep_imatrix(const QuantizeTask& task, const py::object& values) {
        if (!py::isinstance<FloatArray>(values)) {
            fail<InvalidArgument>("imatrix of '", task.source.name,
                                  "': expected a C-contiguous float32 array");
        }
        const auto array = py::reinterpret_borrow<FloatArray>(values);
        require_size(array, task.source.rows.n_per_row * task.source.rows.n_slices, "imatrix");
        matrices_.push_back(array);
        return array.data();
    }

    std::vector<FloatArray> matrices_;
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
    py::class_<QuantizeJob>(module, "QuantizeJob",
                            "Quantizes stored tensors into open files, on all cores.")
        .def(py::init<const py::list&, int, uint64_t, std::vector<int>, double>(), "tasks"_a,
             py::kw_only(), "n_threads"_a, "max_memory"_a, "devices"_a = std::vector<int>(),
             "verify_rate"_a = 0.0,
             "tasks: (StoredTensor, type number, file descriptor, offset, imatrix or None). "
             "devices: numbers of GPUs. verify_rate: share of their rows the CPU does again.")
        .def("wait", &QuantizeJob::wait, "timeout_ms"_a)
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
