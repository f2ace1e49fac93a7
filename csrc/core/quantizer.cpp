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
#include "core/row_checksum.h"

namespace apex {
namespace {

// Stored bytes, floats, result, floats read back: none takes more than four bytes a weight.
constexpr uint64_t kBufferBytesPerWeight = 4 * 4;

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

// Errors of restored rows; their weights are added up unless an earlier result has the sums.
void measure(const float* weights, const float* restored, int64_t n_rows, int64_t n_per_row,
             const RowError* earlier, RowError* errors) {
    for (int64_t row = 0; row < n_rows; ++row) {
        const float *original = weights + row * n_per_row, *found = restored + row * n_per_row;
        errors[row] = earlier == nullptr ? row_error(original, found, n_per_row)
                                         : RowError{squared_error(original, found, n_per_row),
                                                    earlier[row].squared_weights};
    }
}

}  // namespace

struct Quantizer::Buffers {
    std::vector<uint8_t> stored;  // of the unit at hand, once it is read
    std::vector<float> weights;   // the same as floats, once they are asked for
    bool is_read = false, is_widened = false;
    const RowError* measured = nullptr;  // the unit's rows in one type; their weights in any
    std::vector<uint8_t> result;
    std::vector<float> restored;
    std::unique_ptr<DeviceConverter> device;  // null: no GPU is used
};

struct Quantizer::TensorState {
    std::atomic<int64_t> units_left{0};  // of a group's first task, for all of the group
    std::vector<RowError> row_errors;    // in row order, so that their sum has one order
    std::atomic<uint64_t> checksum{0};
};

Quantizer::Quantizer(std::vector<QuantizeTask> tasks, const QuantizeOptions& options)
    : tasks_(std::move(tasks)),
      groups_(make_groups(tasks_, options.group_sizes)),
      units_(cut(!options.devices.empty())),
      n_threads_(affordable_threads(units_, options)),
      verify_rate_(options.verify_rate) {
    check_tasks();
    start_tables();
    if (!options.devices.empty()) {
        devices_ = make_pool(options.devices);
    }
    states_.resize(tasks_.size());
    for (auto& state : states_) state = std::make_unique<TensorState>();
    for (size_t i = 0; i < groups_.size(); ++i) {
        states_[groups_[i].first]->units_left = units_.size(i);
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

std::vector<Quantizer::Group> Quantizer::make_groups(const std::vector<QuantizeTask>& tasks,
                                                     const std::vector<size_t>& sizes) {
    std::vector<Group> groups;
    if (sizes.empty()) {
        for (size_t i = 0; i < tasks.size(); ++i) groups.push_back({i, i + 1});
        return groups;
    }
    size_t first = 0;
    for (const size_t size : sizes) {
        if (size == 0 || size > tasks.size() - first) {
            fail<InvalidArgument>("group_sizes: expected sizes of at least 1 that add up to ",
                                  tasks.size(), " tasks");
        }
        for (size_t i = first + 1; i < first + size; ++i) {
            if (tasks[i].source.name != tasks[first].source.name) {
                fail<InvalidArgument>("tasks of one group have one source, found ",
                                      tasks[first].source.name, " and ", tasks[i].source.name);
            }
        }
        groups.push_back({first, first + size});
        first += size;
    }
    if (first != tasks.size()) {
        fail<InvalidArgument>("group_sizes: ", first, " tasks in groups, found ", tasks.size());
    }
    return groups;
}

RowUnits Quantizer::cut(bool with_devices) const {
    std::vector<TensorRows> rows;
    rows.reserve(groups_.size());
    for (const Group& group : groups_) {
        TensorRows made = tasks_[group.first].source.rows;
        for (size_t i = group.first; i < group.end; ++i) {
            int64_t weights = made.weights_per_unit;
            if (const RowsConverter* converter = tasks_[i].converter) {
                weights = converter->weights_per_unit();
            }
            if (with_devices && is_for_device(tasks_[i])) weights = kDeviceWeightsPerUnit;
            made.weights_per_unit = std::max(made.weights_per_unit, weights);
        }
        rows.push_back(made);
    }
    return RowUnits(std::move(rows));
}

std::unique_ptr<DevicePool> Quantizer::make_pool(const std::vector<int>& devices) const {
    std::vector<int64_t> max_rows(tasks_.size());
    for (size_t group = 0; group < groups_.size(); ++group) {
        for (size_t i = groups_[group].first; i < groups_[group].end; ++i) {
            max_rows[i] = units_.max_rows(group);
        }
    }
    return make_pool_for(tasks_, max_rows, devices, n_threads_);
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

// The rows of a task are those of the one before it: same type, same matrix.
bool Quantizer::is_repeated(size_t task, const Group& group) const {
    if (task == group.first) return false;
    const QuantizeTask &one = tasks_[task - 1], &other = tasks_[task];
    return one.target_type == other.target_type && one.imatrix == other.imatrix &&
           one.converter == nullptr && other.converter == nullptr;
}

void Quantizer::process(int64_t unit_number, Buffers& buffers) {
    const RowUnit unit = units_[unit_number];
    const Group& group = groups_[unit.tensor];
    buffers.is_read = buffers.is_widened = false;
    buffers.measured = nullptr;
    Converted rows;
    for (size_t i = group.first; i < group.end; ++i) {
        if (!is_repeated(i, group)) {
            if (!tasks_[i].is_copy() && !wait_for_tables(tasks_[i].target_type)) return;
            rows = convert(i, unit, buffers);
            rows.checksum = rows_checksum(rows.data, unit.n_rows,
                                          rows.n_bytes / static_cast<size_t>(unit.n_rows),
                                          tasks_[i].source.rows.first_row(unit));
        } else if (rows.errors != nullptr) {
            std::copy_n(rows.errors, unit.n_rows, unit_errors(i, unit));
        }
        write_rows(tasks_[i], unit, rows.data, rows.n_bytes);
        states_[i]->checksum += rows.checksum;
    }
    source_bytes_done_ += unit_bytes(tasks_[group.first].source, unit);
    finish_unit(unit);
}

Quantizer::Converted Quantizer::convert(size_t task, const RowUnit& unit, Buffers& buffers) {
    if (devices_ && is_for_device(tasks_[task])) return convert_on_device(task, unit, buffers);
    if (!buffers.is_read) read_unit(tasks_[task].source, unit, buffers.stored);
    buffers.is_read = true;
    return tasks_[task].is_copy() ? copy_rows(tasks_[task], unit, buffers)
                                  : convert_rows(task, unit, buffers);
}

// The unit's rows as floats, all finite.
const float* Quantizer::widen(const QuantizeTask& task, const RowUnit& unit,
                              Buffers& buffers) const {
    if (buffers.is_widened) return buffers.weights.data();
    const int64_t n = unit.n_rows * task.source.rows.n_per_row;
    buffers.weights.resize(static_cast<size_t>(n));
    convert_to_float(task.source.type, buffers.stored.data(), buffers.weights.data(), n);
    require_finite(task.source, unit, buffers.weights.data());
    buffers.is_widened = true;
    return buffers.weights.data();
}

Quantizer::Converted Quantizer::copy_rows(const QuantizeTask& task, const RowUnit& unit,
                                          Buffers& buffers) const {
    const ggml_type type = task.source.type;
    if (is_float(type)) {
        widen(task, unit, buffers);
    } else if (ggml_is_quantized(type) &&
               !ggml_validate_row_data(type, buffers.stored.data(), buffers.stored.size())) {
        fail<QuantizeError>(describe(task.source, unit), ": the stored ", ggml_type_name(type),
                            " data are not valid; the source file is damaged");
    }
    return {buffers.stored.data(), buffers.stored.size(), nullptr};
}

Quantizer::Converted Quantizer::convert_rows(size_t number, const RowUnit& unit, Buffers& buffers) {
    const QuantizeTask& task = tasks_[number];
    const int64_t n_per_row = task.source.rows.n_per_row;
    const int64_t n = unit.n_rows * n_per_row;
    const float* weights = widen(task, unit, buffers);
    buffers.restored.resize(static_cast<size_t>(n));
    buffers.result.resize(row_bytes(task.target_type, n_per_row) *
                          static_cast<size_t>(unit.n_rows));
    try {
        if (task.converter != nullptr) {
            task.converter->convert(unit, weights, buffers.result.data());
        } else {
            quantize_rows(task.target_type, weights, buffers.result.data(), unit.n_rows, n_per_row,
                          task.slice_imatrix(unit.slice));
        }
    } catch (const QuantizeError& error) {
        fail<QuantizeError>(describe(task.source, unit), ": ", error.what());
    }
    convert_to_float(task.target_type, buffers.result.data(), buffers.restored.data(), n);
    RowError* errors = unit_errors(number, unit);
    measure(weights, buffers.restored.data(), unit.n_rows, n_per_row, buffers.measured, errors);
    buffers.measured = errors;
    return {buffers.result.data(), buffers.result.size(), errors};
}

Quantizer::Converted Quantizer::convert_on_device(size_t number, const RowUnit& unit,
                                                  Buffers& buffers) {
    const QuantizeTask& task = tasks_[number];
    DeviceConverter& device = *buffers.device;
    RowError* errors = unit_errors(number, unit);
    device.convert(task, unit, errors);
    device_rows_ += unit.n_rows;
    verified_rows_ += device.take_verified_rows();
    const size_t n_bytes =
        row_bytes(task.target_type, task.source.rows.n_per_row) * static_cast<size_t>(unit.n_rows);
    return {device.result(), n_bytes, errors};
}

void Quantizer::write_rows(const QuantizeTask& task, const RowUnit& unit, const uint8_t* data,
                           size_t n_bytes) {
    const auto first_row = static_cast<uint64_t>(task.source.rows.first_row(unit));
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

RowError* Quantizer::unit_errors(size_t task, const RowUnit& unit) {
    return row_errors(task) + tasks_[task].source.rows.first_row(unit);
}

RowError* Quantizer::row_errors(size_t task) {
    const std::lock_guard<std::mutex> lock(states_mutex_);
    auto& errors = states_[task]->row_errors;
    if (errors.empty()) errors.resize(static_cast<size_t>(tasks_[task].source.rows.n_rows()));
    return errors.data();
}

void Quantizer::finish_unit(const RowUnit& unit) {
    const Group& group = groups_[unit.tensor];
    if (states_[group.first]->units_left.fetch_sub(1) != 1) return;
    std::vector<TensorDone> finished;
    for (size_t task = group.first; task < group.end; ++task) {
        TensorDone done;
        done.task = task;
        done.checksum = states_[task]->checksum;
        for (const RowError& row : states_[task]->row_errors) {
            done.squared_error += row.squared_error;
            done.squared_weights += row.squared_weights;
        }
        states_[task]->row_errors = {};
        finished.push_back(done);
    }
    const std::lock_guard<std::mutex> lock(done_mutex_);
    done_.insert(done_.end(), finished.begin(), finished.end());
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
