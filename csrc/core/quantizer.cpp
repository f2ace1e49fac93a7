#include "core/quantizer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/device_converter.h"
#include "core/error.h"
#include "core/quantize_rows.h"

namespace apex {
namespace {

// Stored bytes, floats, result, floats read back: none takes more than four bytes a weight.
constexpr uint64_t kBufferBytesPerWeight = 4 * 4;

// A converter prepares whole slices; few units of a slice keep few workers waiting for that.
constexpr int64_t kConverterWeightsPerUnit = 256 * 1024;

RowUnits cut(const std::vector<QuantizeTask>& tasks, bool with_devices) {
    std::vector<TensorRows> rows;
    rows.reserve(tasks.size());
    for (const QuantizeTask& task : tasks) {
        rows.push_back(task.source.rows);
        if (with_devices && is_for_device(task)) {
            rows.back().weights_per_unit = kDeviceWeightsPerUnit;
        } else if (task.converter != nullptr) {
            rows.back().weights_per_unit = kConverterWeightsPerUnit;
        }
    }
    return RowUnits(std::move(rows));
}

int affordable_threads(const RowUnits& units, const QuantizeOptions& options) {
    if (options.n_threads < 1) {
        fail<InvalidArgument>("n_threads is ", options.n_threads, ", expected at least 1");
    }
    const uint64_t per_worker =
        std::max<uint64_t>(1, static_cast<uint64_t>(units.max_weights()) * kBufferBytesPerWeight);
    const uint64_t affordable = options.max_memory / per_worker;
    if (affordable == 0) {
        fail<InvalidArgument>("max_memory is ", options.max_memory, " bytes, one worker needs ",
                              per_worker, " for the longest row; raise `max_memory`");
    }
    return static_cast<int>(
        std::min<uint64_t>(affordable, static_cast<uint64_t>(options.n_threads)));
}

// Large ranges go to the disk while the next are made, so that the sync at the end finds little
// left. Only a hint: what goes wrong shows up at that sync.
void start_writeback([[maybe_unused]] int fd, [[maybe_unused]] uint64_t offset,
                     [[maybe_unused]] size_t n_bytes) {
#if defined(__linux__)
    constexpr size_t kWorthACall = 128 * 1024;
    if (n_bytes < kWorthACall) return;
    ::sync_file_range(fd, static_cast<off64_t>(offset), static_cast<off64_t>(n_bytes),
                      SYNC_FILE_RANGE_WRITE);
#endif
}

bool is_float(ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
}

}  // namespace

struct Quantizer::Buffers {
    std::vector<uint8_t> stored;
    std::vector<float> weights;
    std::vector<uint8_t> result;
    std::vector<float> restored;
    std::unique_ptr<DeviceConverter> device;  // null: no GPU is used
};

struct Quantizer::TensorState {
    std::atomic<int64_t> units_left{0};
    std::vector<RowError> row_errors;  // in row order, so that their sum has one order
};

Quantizer::Quantizer(std::vector<QuantizeTask> tasks, const QuantizeOptions& options)
    : tasks_(std::move(tasks)),
      units_(cut(tasks_, !options.devices.empty())),
      n_threads_(affordable_threads(units_, options)),
      verify_rate_(options.verify_rate) {
    check_tasks();
    start_tables();
    if (!options.devices.empty()) {
        devices_ = make_pool_for(tasks_, units_, options.devices, n_threads_);
    }
    states_.resize(tasks_.size());
    for (size_t i = 0; i < tasks_.size(); ++i) {
        states_[i] = std::make_unique<TensorState>();
        states_[i]->units_left = units_.size(i);
    }
    const auto make_worker = [this] {
        auto buffers = std::make_shared<Buffers>();
        if (devices_) {
            buffers->device =
                std::make_unique<DeviceConverter>(devices_->make_slot(), verify_rate_);
        }
        return [this, buffers](int64_t unit) { process(unit, *buffers); };
    };
    const auto wake_waiters = [this] {
        const std::lock_guard<std::mutex> lock(done_mutex_);
        done_changed_.notify_all();
    };
    workers_ = std::make_unique<WorkerGroup>(n_threads_, units_.size(), make_worker, wake_waiters);
}

Quantizer::~Quantizer() {
    stopping_ = true;
}

void Quantizer::check_tasks() const {
    for (const QuantizeTask& task : tasks_) {
        const StoredTensor& source = task.source;
        if (task.is_copy()) continue;
        check_conversion(source.name, source.type, task.target_type, source.rows.n_per_row,
                         task.imatrix != nullptr);
        if (task.imatrix != nullptr) {
            check_imatrix(source.name, task.imatrix, source.rows.n_per_row, source.rows.n_slices);
        }
    }
}

void Quantizer::start_tables() {
    for (const QuantizeTask& task : tasks_) {
        if (!task.is_copy()) tables_.try_emplace(task.target_type, task.target_type);
    }
}

// False where the job was cancelled first.
bool Quantizer::wait_for_tables(ggml_type type) const {
    constexpr int kPollMs = 50;
    const QuantizerTables& tables = tables_.at(type);
    while (!tables.ready(0)) {
        if (stopping_) return false;
        tables.ready(kPollMs);
    }
    return true;
}

void Quantizer::stop() {
    stopping_ = true;
    workers_->stop();
}

void Quantizer::process(int64_t unit_number, Buffers& buffers) {
    const RowUnit unit = units_[unit_number];
    const QuantizeTask& task = tasks_[unit.tensor];
    if (!task.is_copy() && !wait_for_tables(task.target_type)) return;
    if (devices_ && is_for_device(task)) {
        convert_on_device(task, unit, buffers);
    } else {
        read_unit(task.source, unit, buffers.stored);
        task.is_copy() ? copy_rows(task, unit, buffers) : convert_rows(task, unit, buffers);
    }
    source_bytes_done_ += unit_bytes(task.source, unit);
    finish_unit(unit);
}

void Quantizer::copy_rows(const QuantizeTask& task, const RowUnit& unit, Buffers& buffers) {
    const ggml_type type = task.source.type;
    if (is_float(type)) {
        buffers.weights.resize(static_cast<size_t>(unit.n_rows * task.source.rows.n_per_row));
        convert_to_float(type, buffers.stored.data(), buffers.weights.data(),
                         static_cast<int64_t>(buffers.weights.size()));
        require_finite(task.source, unit, buffers.weights.data());
    } else if (ggml_is_quantized(type) &&
               !ggml_validate_row_data(type, buffers.stored.data(), buffers.stored.size())) {
        fail<QuantizeError>(describe(task.source, unit), ": the stored ", ggml_type_name(type),
                            " data are not valid; the source file is damaged");
    }
    write_rows(task, unit, buffers.stored.data(), buffers.stored.size());
}

void Quantizer::convert_rows(const QuantizeTask& task, const RowUnit& unit, Buffers& buffers) {
    const int64_t n_per_row = task.source.rows.n_per_row;
    const int64_t n = unit.n_rows * n_per_row;
    buffers.weights.resize(static_cast<size_t>(n));
    buffers.restored.resize(static_cast<size_t>(n));
    buffers.result.resize(row_bytes(task.target_type, n_per_row) *
                          static_cast<size_t>(unit.n_rows));
    convert_to_float(task.source.type, buffers.stored.data(), buffers.weights.data(), n);
    require_finite(task.source, unit, buffers.weights.data());
    try {
        if (task.converter != nullptr) {
            task.converter->convert(unit, buffers.weights.data(), buffers.result.data());
        } else {
            quantize_rows(task.target_type, buffers.weights.data(), buffers.result.data(),
                          unit.n_rows, n_per_row, task.slice_imatrix(unit.slice));
        }
    } catch (const QuantizeError& error) {
        fail<QuantizeError>(describe(task.source, unit), ": ", error.what());
    }
    convert_to_float(task.target_type, buffers.result.data(), buffers.restored.data(), n);
    RowError* errors = unit_errors(unit);
    for (int64_t row = 0; row < unit.n_rows; ++row) {
        errors[row] = row_error(buffers.weights.data() + row * n_per_row,
                                buffers.restored.data() + row * n_per_row, n_per_row);
    }
    write_rows(task, unit, buffers.result.data(), buffers.result.size());
}

void Quantizer::convert_on_device(const QuantizeTask& task, const RowUnit& unit, Buffers& buffers) {
    DeviceConverter& device = *buffers.device;
    device.convert(task, unit, unit_errors(unit));
    device_rows_ += unit.n_rows;
    verified_rows_ += device.take_verified_rows();
    write_rows(
        task, unit, device.result(),
        row_bytes(task.target_type, task.source.rows.n_per_row) * static_cast<size_t>(unit.n_rows));
}

void Quantizer::write_rows(const QuantizeTask& task, const RowUnit& unit, const uint8_t* data,
                           size_t n_bytes) {
    const uint64_t first_row =
        static_cast<uint64_t>(unit.slice * task.source.rows.rows_per_slice + unit.first_row);
    uint64_t offset = task.output_offset + first_row * (n_bytes / static_cast<size_t>(unit.n_rows));
    size_t left = n_bytes;
    while (left > 0) {
        const ssize_t n = ::pwrite(task.output_fd, data, left, static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            fail<OutputError>("writing ", describe(task.source, unit), " at byte ", offset, ": ",
                              std::strerror(n < 0 ? errno : ENOSPC));
        }
        data += n;
        offset += static_cast<uint64_t>(n);
        left -= static_cast<size_t>(n);
    }
    start_writeback(task.output_fd, offset - n_bytes, n_bytes);
}

RowError* Quantizer::unit_errors(const RowUnit& unit) {
    const int64_t rows_per_slice = tasks_[unit.tensor].source.rows.rows_per_slice;
    return row_errors(unit.tensor) + unit.slice * rows_per_slice + unit.first_row;
}

RowError* Quantizer::row_errors(size_t task) {
    const std::lock_guard<std::mutex> lock(states_mutex_);
    auto& errors = states_[task]->row_errors;
    if (errors.empty()) errors.resize(static_cast<size_t>(tasks_[task].source.rows.n_rows()));
    return errors.data();
}

void Quantizer::finish_unit(const RowUnit& unit) {
    TensorState& state = *states_[unit.tensor];
    if (state.units_left.fetch_sub(1) != 1) return;
    TensorDone done;
    done.task = unit.tensor;
    for (const RowError& row : state.row_errors) {
        done.squared_error += row.squared_error;
        done.squared_weights += row.squared_weights;
    }
    state.row_errors = {};
    const std::lock_guard<std::mutex> lock(done_mutex_);
    done_.push_back(done);
    done_changed_.notify_all();
}

std::vector<TensorDone> Quantizer::wait(int timeout_ms) {
    std::vector<TensorDone> news;
    {
        std::unique_lock<std::mutex> lock(done_mutex_);
        done_changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                               [this] { return !done_.empty() || !workers_->running(); });
        news.swap(done_);
    }
    if (news.empty() && !workers_->running() && !finished_) {
        workers_->join();  // rethrows
        finished_ = true;
        const std::lock_guard<std::mutex> lock(done_mutex_);
        news.swap(done_);  // what was finished between the wait and the join
    }
    return news;
}

}  // namespace apex
