// calibration/device_moments.h on CUDA.
#include "calibration/device_moments.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>

#include "cuda/moment_products.h"
#include "cuda/runtime.h"
#include "moments/products.h"

namespace apex {
namespace cuda {
namespace {

struct Sums {
    int64_t n_matrices, packed;
    DeviceBuffer part, rest, counts, part_counts;

    Sums(int64_t n_matrices, int64_t n_per_row)
        : n_matrices(n_matrices),
          packed(packed_size(n_per_row)),
          part(sums_bytes()),
          rest(sums_bytes()),
          counts(counts_bytes()),
          part_counts(counts_bytes()) {}

    size_t n_sums() const { return static_cast<size_t>(n_matrices * packed); }
    size_t sums_bytes() const { return n_sums() * sizeof(double); }
    size_t counts_bytes() const { return static_cast<size_t>(n_matrices) * sizeof(int64_t); }
    MomentsOnDevice pointers() const {
        return {part.as<double>(), rest.as<double>(), counts.as<int64_t>(),
                part_counts.as<int64_t>()};
    }
};

// Sums on their way to the host, as floats: kLandingFloats at a time.
constexpr size_t kLandingFloats = size_t{1} << 19;

class Landing {
  public:
    explicit Landing(const Stream& stream) : stream_(stream) {}

    // Of one half, or of two together.
    void fill(const double* half, const double* other, size_t n, float* to) {
        empty();
        APEX_CUDA_CALL(launch_round(half, other, static_cast<int64_t>(n), rounded_.as<float>(),
                                    stream_.get()));
        stream_.copy(landed_.as(), rounded_.as(), n * sizeof(float));
        filled_.record(stream_);
        to_ = to;
        n_ = n;
    }
    void empty() {
        if (to_ == nullptr) return;
        filled_.wait();
        std::memcpy(to_, landed_.as(), n_ * sizeof(float));
        to_ = nullptr;
    }

  private:
    const Stream& stream_;
    DeviceBuffer rounded_{kLandingFloats * sizeof(float)};
    PinnedBuffer landed_{kLandingFloats * sizeof(float)};
    Event filled_{cudaEventDisableTiming};
    float* to_ = nullptr;
    size_t n_ = 0;
};

class Moments final : public DeviceMoments {
  public:
    explicit Moments(int device) : device_(device) {
        use_device(device_);
        stream_ = std::make_unique<Stream>();
        failed_ = DeviceBuffer(sizeof(int));
    }

    bool add_sums(size_t number, int64_t n_matrices, int64_t n_per_row, size_t spare) override {
        use_device(device_);
        const size_t needed = 2 * sizeof(double) * static_cast<size_t>(n_matrices) *
                              static_cast<size_t>(packed_size(n_per_row));
        size_t free_bytes = 0, all = 0;
        APEX_CUDA_CALL(cudaMemGetInfo(&free_bytes, &all));
        if (free_bytes < needed || free_bytes - needed < spare) return false;
        auto made = std::make_unique<Sums>(n_matrices, n_per_row);
        for (const DeviceBuffer* buffer :
             {&made->part, &made->rest, &made->counts, &made->part_counts}) {
            APEX_CUDA_CALL(cudaMemsetAsync(buffer->as(), 0, buffer->size(), stream_->get()));
        }
        sums_[number] = std::move(made);
        return true;
    }

    void add(size_t number, const DeviceInput& input, const DeviceSums& squares,
             bool in_part) override {
        use_device(device_);
        room_ = at_least(std::move(room_), moments_room_bytes(input));
        APEX_CUDA_CALL(launch_moments(input, squares, in_part, room_.as(),
                                      sums_.at(number)->pointers(), failed_.as<int>(),
                                      stream_->get()));
        stream_->wait();
    }

    void write(size_t number, const MomentOnHost& from) override {
        use_device(device_);
        const Sums& sums = *sums_.at(number);
        stream_->copy(sums.part.as(), from.part, sums.sums_bytes());
        stream_->copy(sums.rest.as(), from.rest, sums.sums_bytes());
        stream_->copy(sums.counts.as(), from.counts, sums.counts_bytes());
        stream_->copy(sums.part_counts.as(), from.part_counts, sums.counts_bytes());
        stream_->wait();
    }

    void read(size_t number, const MomentOnHost& to) override {
        use_device(device_);
        const Sums& sums = *sums_.at(number);
        if (to.part != nullptr) {
            stream_->copy(to.part, sums.part.as(), sums.sums_bytes());
            stream_->copy(to.rest, sums.rest.as(), sums.sums_bytes());
        }
        stream_->copy(to.counts, sums.counts.as(), sums.counts_bytes());
        stream_->copy(to.part_counts, sums.part_counts.as(), sums.counts_bytes());
        stream_->wait();
    }

    void read_floats(size_t number, size_t begin, size_t n, float* total, float* part) override {
        use_device(device_);
        const Sums& from = *sums_.at(number);
        const Stream stream;
        Landing landings[2] = {Landing(stream), Landing(stream)};  // one fills, one is emptied
        for (size_t at = 0; at < n; at += kLandingFloats) {
            const size_t count = std::min(kLandingFloats, n - at);
            const double* of_part = from.part.as<double>() + begin + at;
            landings[0].fill(of_part, from.rest.as<double>() + begin + at, count, total + at);
            landings[1].fill(of_part, nullptr, count, part + at);
        }
        for (Landing& landing : landings) landing.empty();
    }

    void drop(size_t number) override {
        use_device(device_);
        stream_->wait();
        sums_.erase(number);
    }

  private:
    int device_;
    std::map<size_t, std::unique_ptr<Sums>> sums_;
    DeviceBuffer failed_, room_;
    std::unique_ptr<Stream> stream_;  // destroyed first: buffers are freed after it
};

}  // namespace
}  // namespace cuda

std::unique_ptr<DeviceMoments> make_device_moments(int device) {
    return std::make_unique<cuda::Moments>(device);
}

}  // namespace apex
