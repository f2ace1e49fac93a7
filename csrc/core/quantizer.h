// Quantizes a list of tensors from files into files, on all cores, in bounded memory.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/device.h"
#include "core/quantize_rows.h"
#include "core/quantize_task.h"
#include "core/row_error.h"
#include "core/row_source.h"
#include "core/row_units.h"
#include "core/worker_group.h"

namespace apex {

struct TensorDone {
    size_t task = 0;
    double squared_error = 0;
    double squared_weights = 0;
    uint64_t checksum = 0;  // of the written rows (row_checksum.h)
};

struct QuantizeOptions {
    int n_threads = 1;
    uint64_t max_memory = 2ull << 30;  // bytes for the workers' buffers
    std::vector<int> devices{};        // GPUs to use (core/device.h); none: the CPU does it all
    double verify_rate = 0;  // share of the GPUs' rows that the CPU does again, to compare
    // Tasks that follow each other and have one source: so many each, all tasks together. Empty:
    // every task by itself. A group's rows are read and widened once; tasks of a group that follow
    // each other with one type and one matrix are also quantized once, and written several times.
    std::vector<size_t> group_sizes{};
};

// The plan fixes the size of every tensor beforehand, so every byte's place in the output is known:
// each worker reads a unit of rows, converts it and writes it where it belongs. There is no slab,
// no barrier between tensors and no writer to wait for, and reading, computing and writing overlap
// because the workers are at different steps. Bytes do not depend on the number of workers.
//
// With GPUs each worker has a slot on one of them, and types that have a kernel go there: the
// worker reads a larger unit into pinned memory, the GPU copies and quantizes it while other
// workers read, measure and write theirs. Bytes and errors are those of the CPU.
class Quantizer {
  public:
    // Checks every task, then starts working.
    Quantizer(std::vector<QuantizeTask> tasks, const QuantizeOptions& options);
    ~Quantizer();

    // Waits until tensors are done, all is done, or the time is over; returns the tensors
    // finished since the last call. Rethrows a worker's error once all workers have stopped.
    std::vector<TensorDone> wait(int timeout_ms);
    bool finished() const { return finished_; }

    // Returns when no worker runs any more: each finishes its unit. A wait() elsewhere returns.
    void stop();

    uint64_t source_bytes_done() const { return source_bytes_done_.load(); }
    int n_threads() const { return n_threads_; }

    // Rows that GPUs quantized, and how many of them the CPU has compared so far.
    int64_t device_rows() const { return device_rows_.load(); }
    int64_t verified_rows() const { return verified_rows_.load(); }

  private:
    struct Buffers;
    struct TensorState;

    struct Group {
        size_t first = 0, end = 0;  // of tasks_
    };
    struct Converted {
        const uint8_t* data = nullptr;
        size_t n_bytes = 0;
        const RowError* errors = nullptr;  // null: the rows were copied
        uint64_t checksum = 0;
    };

    static std::vector<Group> make_groups(const std::vector<QuantizeTask>& tasks,
                                          const std::vector<size_t>& sizes);
    RowUnits cut(bool with_devices) const;
    std::unique_ptr<DevicePool> make_pool(const std::vector<int>& devices) const;
    void check_tasks() const;
    void start_tables();
    bool wait_for_tables(ggml_type type) const;
    void process(int64_t unit, Buffers& buffers);
    bool is_repeated(size_t task, const Group& group) const;
    const float* widen(const QuantizeTask& task, const RowUnit& unit, Buffers& buffers) const;
    Converted convert(size_t task, const RowUnit& unit, Buffers& buffers);
    Converted copy_rows(const QuantizeTask& task, const RowUnit& unit, Buffers& buffers) const;
    Converted convert_rows(size_t task, const RowUnit& unit, Buffers& buffers);
    Converted convert_on_device(size_t task, const RowUnit& unit, Buffers& buffers);
    void write_rows(const QuantizeTask& task, const RowUnit& unit, const uint8_t* data,
                    size_t n_bytes);
    RowError* unit_errors(size_t task, const RowUnit& unit);
    RowError* row_errors(size_t task);
    void finish_unit(const RowUnit& unit);

    std::vector<QuantizeTask> tasks_;
    std::vector<Group> groups_;
    RowUnits units_;  // of groups
    int n_threads_;
    double verify_rate_;
    std::unique_ptr<DevicePool> devices_;  // null: no GPU is used
    std::map<ggml_type, QuantizerTables> tables_;
    std::vector<std::unique_ptr<TensorState>> states_;
    std::mutex states_mutex_;
    std::mutex done_mutex_;
    std::condition_variable done_changed_;
    std::vector<TensorDone> done_;
    std::atomic<uint64_t> source_bytes_done_{0};
    std::atomic<int64_t> device_rows_{0};
    std::atomic<int64_t> verified_rows_{0};
    std::atomic<bool> finished_{false};
    std::atomic<bool> stopping_{false};
    std::unique_ptr<WorkerGroup> workers_;  // last: its threads use all of the above
};

}  // namespace apex
