#include "allocation/tensor_value.h"

#include <cstring>

#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/device_converter.h"
#include "core/error.h"
#include "core/quantize_rows.h"
#include "core/row_error.h"
#include "core/row_units.h"
#include "core/worker_group.h"

namespace apex {
namespace {

constexpr int kTablePollMs = 100;

// One tensor on its way.
struct Job {
    ValueRequest request;
    const GgufTensor* entry = nullptr;
    const uint8_t* source = nullptr;
    std::shared_ptr<TensorValue> value;
    std::vector<SliceError> rows;

    int64_t n_per_row() const { return entry->n_per_row(); }
    int64_t rows_per_slice() const {
        return (entry->rows_per_slice() + request.row_step - 1) / request.row_step;
    }
    // Of the source, for a row of the value.
    const uint8_t* source_of(int64_t slice, int64_t row) const {
        const int64_t at = slice * entry->rows_per_slice() + row * request.row_step;
        return source + static_cast<size_t>(at) * source_row();
    }
    size_t source_row() const { return row_bytes(entry->type, n_per_row()); }
    size_t target_row() const { return row_bytes(request.type, n_per_row()); }

    TensorRows rows_of_value() const { return {n_per_row(), rows_per_slice(), entry->n_slices()}; }

    // As the quantizer of files knows it; what is not quantized here counts as copied.
    QuantizeTask task() const {
        QuantizeTask task;
        task.source.type = entry->type;
        task.source.rows = rows_of_value();
        task.target_type = request.encoded == nullptr ? request.type : entry->type;
        task.imatrix = request.imatrix;
        task.converter = request.converter;
        return task;
    }
};

Job make_job(const GgufFile& file, const ValueRequest& request) {
    if (request.tensor >= file.tensors().size()) {
        fail<InvalidArgument>("tensor ", request.tensor, " of ", file.tensors().size());
    }
    if (request.row_step < 1 || (request.row_step > 1 && request.encoded != nullptr)) {
        fail<InvalidArgument>("every row, or every n-th that is quantized here; found a step of ",
                              request.row_step);
    }
    const ShardTensor& tensor = file.tensors()[request.tensor];
    Job job;
    job.request = request;
    job.entry = &tensor.entry;
    job.source = file.tensor_data(tensor);
    check_conversion(tensor.entry.name, tensor.entry.type, request.type, job.n_per_row(),
                     request.imatrix != nullptr);
    if (request.imatrix != nullptr) {
        check_imatrix(tensor.entry.name, request.imatrix, job.n_per_row(), tensor.entry.n_slices());
    }
    const int64_t n_rows = job.rows_per_slice() * tensor.entry.n_slices();
    job.rows.resize(static_cast<size_t>(n_rows));
    job.value = std::make_shared<TensorValue>();
    job.value->name = tensor.entry.name;
    job.value->type = request.type;
    job.value->ne = {job.n_per_row(), job.rows_per_slice(), tensor.entry.n_slices()};
    job.value->bytes.resize(job.target_row() * static_cast<size_t>(n_rows));
    return job;
}

SliceError weighted_error(const float* original, const float* restored, const float* importance,
                          int64_t n) {
    SliceError sum;
    for (int64_t i = 0; i < n; ++i) {
        const double x = original[i];
        const double difference = x - static_cast<double>(restored[i]);
        const double weight = importance == nullptr ? 1.0 : static_cast<double>(importance[i]);
        sum.squared_error += weight * difference * difference;
        sum.squared_weights += weight * x * x;
    }
    return sum;
}

class ValueWorker {
  public:
    // slot: of a GPU, or null.
    ValueWorker(std::vector<Job>& jobs, const RowUnits& units, std::unique_ptr<DeviceSlot> slot)
        : jobs_(jobs), units_(units), slot_(std::move(slot)) {}

    void operator()(int64_t number) {
        const RowUnit unit = units_[number];
        Job& job = jobs_[unit.tensor];
        const int64_t n = job.n_per_row();
        const auto count = static_cast<size_t>(unit.n_rows * n);
        const int64_t row = unit.slice * job.rows_per_slice() + unit.first_row;
        const float* imatrix =
            job.request.imatrix == nullptr ? nullptr : job.request.imatrix + unit.slice * n;
        original_.resize(count);
        restored_.resize(count);
        const auto first = static_cast<size_t>(row);
        for (int64_t i = 0; i < unit.n_rows; ++i) {
            convert_to_float(job.entry->type, job.source_of(unit.slice, unit.first_row + i),
                             original_.data() + i * n, n);
        }
        if (!all_finite(original_.data(), static_cast<int64_t>(count))) {
            fail<QuantizeError>(job.entry->name, ": its weights are not finite");
        }
        uint8_t* bytes = job.value->bytes.data() + first * job.target_row();
        encode(job, unit, first, imatrix, bytes);
        convert_to_float(job.request.type, bytes, restored_.data(), static_cast<int64_t>(count));
        for (int64_t i = 0; i < unit.n_rows; ++i) {
            job.rows[first + static_cast<size_t>(i)] =
                weighted_error(original_.data() + i * n, restored_.data() + i * n, imatrix, n);
        }
    }

  private:
    void encode(const Job& job, const RowUnit& unit, size_t first, const float* imatrix,
                uint8_t* bytes) {
        const size_t size = job.target_row() * static_cast<size_t>(unit.n_rows);
        if (job.request.encoded != nullptr) {
            std::memcpy(bytes, job.request.encoded + first * job.target_row(), size);
            if (!ggml_validate_row_data(job.request.type, bytes, size)) {
                fail<QuantizeError>(job.entry->name, ": the given bytes hold a scale that is not ",
                                    "finite");
            }
        } else if (job.request.type == job.entry->type) {
            for (int64_t i = 0; i < unit.n_rows; ++i) {
                std::memcpy(bytes + static_cast<size_t>(i) * job.target_row(),
                            job.source_of(unit.slice, unit.first_row + i), job.target_row());
            }
        } else if (job.request.converter != nullptr) {
            job.request.converter->convert(unit, original_.data(), bytes);
        } else if (slot_ != nullptr && is_for_device(job.task())) {
            encode_on_device(job, unit, imatrix, bytes);
        } else {
            quantize_rows(job.request.type, original_.data(), bytes, unit.n_rows, job.n_per_row(),
                          imatrix);
        }
    }

    void encode_on_device(const Job& job, const RowUnit& unit, const float* imatrix,
                          uint8_t* bytes) {
        for (int64_t i = 0; i < unit.n_rows; ++i) {
            std::memcpy(slot_->stored() + static_cast<size_t>(i) * job.source_row(),
                        job.source_of(unit.slice, unit.first_row + i), job.source_row());
        }
        slot_->start({job.entry->type, job.request.type, unit.n_rows, job.n_per_row(), imatrix});
        slot_->finish();
        std::memcpy(bytes, slot_->result(), job.target_row() * static_cast<size_t>(unit.n_rows));
        for (int64_t i = 0; i < unit.n_rows; ++i) {
            if (!slot_->leaves(i)) continue;
            quantize_rows(job.request.type, original_.data() + i * job.n_per_row(),
                          bytes + static_cast<size_t>(i) * job.target_row(), 1, job.n_per_row(),
                          imatrix);
        }
    }

    std::vector<Job>& jobs_;
    const RowUnits& units_;
    std::unique_ptr<DeviceSlot> slot_;
    std::vector<float> original_;
    std::vector<float> restored_;
};

void build_tables(const std::vector<Job>& jobs, const StopFlag* stop) {
    for (const Job& job : jobs) {
        const QuantizerTables tables(job.request.type);
        while (!tables.ready(kTablePollMs)) {
            if (stop != nullptr && stop->is_set()) fail<Cancelled>("quantizing was stopped");
        }
    }
}

RowUnits cut(const std::vector<Job>& jobs, const ValueOptions& options) {
    std::vector<TensorRows> rows;
    for (const Job& job : jobs) {
        rows.push_back(job.rows_of_value());
        if (!options.devices.empty() && is_for_device(job.task())) {
            rows.back().weights_per_unit = kDeviceWeightsPerUnit;
        }
    }
    return RowUnits(std::move(rows));
}

// Null where no GPU has anything to do.
std::unique_ptr<DevicePool> make_pool(const std::vector<Job>& jobs, const RowUnits& units,
                                      const ValueOptions& options) {
    std::vector<QuantizeTask> tasks;
    std::vector<int64_t> max_rows;
    bool any = false;
    for (size_t i = 0; i < jobs.size() && !options.devices.empty(); ++i) {
        tasks.push_back(jobs[i].task());
        max_rows.push_back(units.max_rows(i));
        any = any || is_for_device(tasks.back());
    }
    if (!any) return nullptr;
    return make_pool_for(tasks, max_rows, options.devices, options.n_threads);
}

void add_rows(Job& job) {
    const int64_t per_slice = job.rows_per_slice();
    for (int64_t slice = 0; slice < job.entry->n_slices(); ++slice) {
        SliceError sum;
        for (int64_t row = slice * per_slice; row < (slice + 1) * per_slice; ++row) {
            sum.squared_error += job.rows[static_cast<size_t>(row)].squared_error;
            sum.squared_weights += job.rows[static_cast<size_t>(row)].squared_weights;
        }
        job.value->errors.push_back(sum);
    }
}

}  // namespace

std::vector<std::shared_ptr<const TensorValue>> make_values(const GgufFile& file,
                                                            const std::vector<ValueRequest>& wanted,
                                                            const ValueOptions& options) {
    std::vector<Job> jobs;
    for (const ValueRequest& request : wanted) jobs.push_back(make_job(file, request));
    std::vector<std::shared_ptr<const TensorValue>> values;
    if (jobs.empty()) return values;
    const StopFlag* stop = options.stop;
    build_tables(jobs, stop);
    const RowUnits units = cut(jobs, options);
    const std::unique_ptr<DevicePool> pool = make_pool(jobs, units, options);
    WorkerGroup workers(options.n_threads, units.size(), [&] {
        auto slot = pool == nullptr ? nullptr : pool->make_slot();
        auto worker = std::make_shared<ValueWorker>(jobs, units, std::move(slot));
        return [worker, stop](int64_t unit) {
            if (stop != nullptr && stop->is_set()) fail<Cancelled>("quantizing was stopped");
            (*worker)(unit);
        };
    });
    workers.join();
    for (Job& job : jobs) {
        add_rows(job);
        values.push_back(job.value);
    }
    return values;
}

}  // namespace apex
