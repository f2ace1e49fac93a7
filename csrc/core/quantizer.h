// Quantizes a list of tensors from files into files, on all cores, in bounded memory.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/quantize_rows.h"
#include "core/row_error.h"
#include "core/row_source.h"
#include "core/row_units.h"
#include "core/worker_group.h"

namespace apex {

struct QuantizeTask {
    StoredTensor source;
    ggml_type target_type = GGML_TYPE_COUNT;  // equal to the source type: the bytes are copied
    int output_fd = -1;
    uint64_t output_offset = 0;
    const float* imatrix = nullptr;  // n_slices * n_per_row values, or null
};

struct TensorDone {
    size_t task = 0;
    double squared_error = 0;
    double squared_weights = 0;
};

struct QuantizeOptions {
    int n_threads = 1;
    uint64_t max_memory = 2ull << 30;  // bytes for the workers' buffers
};

// The plan fixes the size of every tensor beforehand, so every byte's place in the output is known:
// each worker reads a unit of rows, converts it and writes it where it belongs. There is no slab,
// no barrier between tensors and no writer to wait for, and reading, computing and writing overlap
// because the workers are at different steps. Bytes do not depend on the number of workers.
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

  private:
    struct Buffers;
    struct TensorState;

    void check_tasks() const;
    void start_tables();
    bool wait_for_tables(ggml_type type) const;
    void process(int64_t unit, Buffers& buffers);
    void copy_rows(const QuantizeTask& task, const RowUnit& unit, Buffers& buffers);
    void convert_rows(const QuantizeTask& task, const RowUnit& unit, Buffers& buffers);
    void write_rows(const QuantizeTask& task, const RowUnit& unit,
                    const std::vector<uint8_t>& bytes);
    RowError* row_errors(size_t task);
    void finish_unit(const RowUnit& unit);

    std::vector<QuantizeTask> tasks_;
    RowUnits units_;
    int n_threads_;
    std::map<ggml_type, QuantizerTables> tables_;
    std::vector<std::unique_ptr<TensorState>> states_;
    std::mutex states_mutex_;
    std::mutex done_mutex_;
    std::condition_variable done_changed_;
    std::vector<TensorDone> done_;
    std::atomic<uint64_t> source_bytes_done_{0};
    std::atomic<bool> finished_{false};
    std::atomic<bool> stopping_{false};
    std::unique_ptr<WorkerGroup> workers_;  // last: its threads use all of the above
};

}  // namespace apex
