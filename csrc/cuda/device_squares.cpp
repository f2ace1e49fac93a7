// calibration/device_squares.h on CUDA.
#include "calibration/device_squares.h"

#include <map>
#include <vector>

#include "cuda/imatrix_squares.h"
#include "cuda/routed_rows.h"
#include "cuda/runtime.h"

namespace apex {
namespace cuda {
namespace {

struct Slot {
    DeviceBuffer sums, counts;
    int64_t n_matrices = 0;
    int64_t n_per_row = 0;
};

struct Total {
    DeviceBuffer sums, counts;
    int64_t n_counts = 0;
};

class Squares final : public DeviceSquares {
  public:
    Squares(int device, size_t n_slots) : device_(device), slots_(n_slots) {
        use_device(device_);
        stream_ = std::make_unique<Stream>();
        failed_ = DeviceBuffer(sizeof(int));
        failed_on_host_ = PinnedBuffer(sizeof(int));
    }

    bool compute(size_t number, const DeviceInput& input) override {
        use_device(device_);
        const bool is_routed = input.experts != nullptr;
        if (is_routed && input.n_all_matrices() > kMaxRoutedExperts) return false;
        Slot& slot = slots_.at(number);
        slot.n_matrices = input.n_all_matrices();
        slot.n_per_row = input.ne[0];
        const auto n = static_cast<size_t>(slot.n_matrices);
        slot.sums = at_least(std::move(slot.sums),
                             n * static_cast<size_t>(slot.n_per_row) * sizeof(double));
        slot.counts = at_least(std::move(slot.counts), n * sizeof(int64_t));
        if (is_routed) sorted_ = at_least(std::move(sorted_), routed_rows_bytes(input));
        APEX_CUDA_CALL(cudaMemsetAsync(failed_.as(), 0, sizeof(int), stream_->get()));
        APEX_CUDA_CALL(launch_squares(input, sorted_.as(), slot.sums.as<double>(),
                                      slot.counts.as<int64_t>(), failed_.as<int>(),
                                      stream_->get()));
        stream_->copy(failed_on_host_.as(), failed_.as(), sizeof(int));
        stream_->wait();
        return *failed_on_host_.as<int>() == 0;
    }

    DeviceSums sums(size_t number) const override {
        const Slot& slot = slots_.at(number);
        return {slot.sums.as<double>(), slot.counts.as<int64_t>()};
    }

    size_t add_total(const double* sums, int64_t n_sums, const int64_t* counts,
                     int64_t n_counts) override {
        use_device(device_);
        Total total;
        total.sums = DeviceBuffer(static_cast<size_t>(n_sums) * sizeof(double));
        total.counts = DeviceBuffer(static_cast<size_t>(n_counts) * sizeof(int64_t));
        total.n_counts = n_counts;
        stream_->copy(total.sums.as(), sums, total.sums.size());
        stream_->copy(total.counts.as(), counts, total.counts.size());
        stream_->wait();
        totals_.emplace(next_total_, std::move(total));
        return next_total_++;
    }

    void add(size_t number, size_t to) override {
        use_device(device_);
        const Slot& slot = slots_.at(number);
        const Total& total = totals_.at(to);
        APEX_CUDA_CALL(launch_add(slot.sums.as<double>(), slot.counts.as<int64_t>(),
                                  slot.n_matrices, slot.n_per_row, total.sums.as<double>(),
                                  total.counts.as<int64_t>(), total.n_counts, stream_->get()));
    }

    void start_read(size_t from, double* sums, int64_t* counts) override {
        use_device(device_);
        const Slot& slot = slots_.at(from);
        const auto n = static_cast<size_t>(slot.n_matrices);
        stream_->copy(sums, slot.sums.as(),
                      n * static_cast<size_t>(slot.n_per_row) * sizeof(double));
        stream_->copy(counts, slot.counts.as(), n * sizeof(int64_t));
    }

    void wait() override {
        use_device(device_);
        stream_->wait();
    }

    void read_total(size_t from, double* sums, int64_t* counts) override {
        use_device(device_);
        const Total& total = totals_.at(from);
        stream_->copy(sums, total.sums.as(), total.sums.size());
        stream_->copy(counts, total.counts.as(), total.counts.size());
        stream_->wait();
    }

    void drop_total(size_t number) override {
        use_device(device_);
        stream_->wait();
        totals_.erase(number);
    }

  private:
    int device_;
    std::vector<Slot> slots_;
    std::map<size_t, Total> totals_;
    size_t next_total_ = 0;
    DeviceBuffer failed_, sorted_;
    PinnedBuffer failed_on_host_;
    std::unique_ptr<Stream> stream_;  // destroyed first: buffers are freed after it
};

}  // namespace
}  // namespace cuda

std::unique_ptr<DeviceSquares> make_device_squares(int device, size_t n_slots) {
    return std::make_unique<cuda::Squares>(device, n_slots);
}

}  // namespace apex
