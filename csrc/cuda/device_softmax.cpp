// scoring/device_softmax.h and core/device_memory.h on CUDA.
#include "scoring/device_softmax.h"

#include <algorithm>
#include <deque>
#include <set>

#include "core/device_memory.h"
#include "cuda/runtime.h"
#include "cuda/softmax_rows.h"

namespace apex {
namespace cuda {
namespace {

class RowBuffer final : public DeviceRowBuffer {
  public:
    RowBuffer(int device, size_t bytes)
        : device_(device), memory_((use_device(device), DeviceBuffer(bytes))) {}

    float* data() override { return memory_.as<float>(); }
    size_t size() const override { return memory_.size(); }

    void copy_from(size_t offset, const void* from, size_t bytes) override {
        use_device(device_);
        stream_.copy(memory_.as<char>() + offset, from, bytes);
        stream_.wait();
    }

  private:
    int device_;
    DeviceBuffer memory_;
    Stream stream_;
};

// Memory that is made anew where more is needed than ever before.
class GrowingBuffer {
  public:
    void* of_size(size_t bytes) {
        if (bytes > memory_.size()) {
            memory_ = DeviceBuffer();  // free it first
            memory_ = DeviceBuffer(bytes);
        }
        return memory_.as();
    }

  private:
    DeviceBuffer memory_;
};

class Scores final : public DeviceSoftmax {
  public:
    explicit Scores(int device) : device_(device), stream_(on_device(device)) {}

    void add_up(const DeviceSoftmaxJob& job, SoftmaxSums* sums) override {
        use_device(device_);
        const auto n_rows = static_cast<size_t>(job.n_rows);
        const size_t n_sources = job.candidates.size() + (job.reference == nullptr ? 0 : 1);
        if (n_rows == 0 || n_sources == 0) return;
        auto* targets = static_cast<int32_t*>(targets_.of_size(n_rows * sizeof(int32_t)));
        auto* found =
            static_cast<SoftmaxSums*>(sums_.of_size(n_sources * n_rows * sizeof(SoftmaxSums)));
        stream_->copy(targets, job.targets, n_rows * sizeof(int32_t));
        SoftmaxSums* next = found;
        n_copied_ = 0;
        const float* reference = nullptr;
        SoftmaxSums* reference_sums = nullptr;
        if (job.reference != nullptr) {
            reference = begin(job.reference, job, targets, next);
            reference_sums = next;
            next += n_rows;
            if (job.candidates.empty()) compare(job, reference, nullptr, reference_sums, nullptr);
        }
        const size_t n_copied_for_all = n_copied_;
        for (const float* rows : job.candidates) {
            n_copied_ = n_copied_for_all;  // candidates that are copied take the same place in turn
            const float* candidate = begin(rows, job, targets, next);
            compare(job, reference, candidate, reference_sums, next);
            next += n_rows;
        }
        stream_->copy(sums, found, n_sources * n_rows * sizeof(SoftmaxSums));
        stream_->wait();
    }

  private:
    static std::unique_ptr<Stream> on_device(int device) {
        use_device(device);
        return std::make_unique<Stream>();
    }

    // Rows on this device, their largest entries under way.
    const float* begin(const float* rows, const DeviceSoftmaxJob& job, const int32_t* targets,
                       SoftmaxSums* sums) {
        const float* here = rows;
        if (device_of(rows) != device_) {
            if (n_copied_ == copies_.size()) copies_.emplace_back();
            const size_t bytes = static_cast<size_t>(job.n_rows * job.n_vocab) * sizeof(float);
            void* place = copies_[n_copied_++].of_size(bytes);
            reach(device_of(rows));
            stream_->copy(place, rows, bytes);
            here = static_cast<const float*>(place);
        }
        APEX_CUDA_CALL(
            launch_find_top(here, job.n_rows, job.n_vocab, targets, sums, stream_->get()));
        return here;
    }

    // Rows of another GPU come straight from there where the two can do that, else by the host.
    void reach(int other) {
        if (other < 0 || !reached_.insert(other).second) return;
        int can = 0;
        APEX_CUDA_CALL(cudaDeviceCanAccessPeer(&can, device_, other));
        if (can == 0) return;
        const cudaError_t found = cudaDeviceEnablePeerAccess(other, 0);
        if (found == cudaErrorPeerAccessAlreadyEnabled) {
            cudaGetLastError();
        } else {
            APEX_CUDA_CALL(found);
        }
    }

    void compare(const DeviceSoftmaxJob& job, const float* reference, const float* candidate,
                 SoftmaxSums* reference_sums, SoftmaxSums* candidate_sums) {
        CompareJob compare;
        compare.reference = reference;
        compare.candidate = candidate;
        compare.n_rows = job.n_rows;
        compare.n_vocab = job.n_vocab;
        compare.is_coded = job.is_coded;
        compare.reference_sums = reference_sums;
        compare.candidate_sums = candidate_sums;
        APEX_CUDA_CALL(launch_compare(compare, stream_->get()));
    }

    int device_;
    std::set<int> reached_;  // other GPUs
    std::unique_ptr<Stream> stream_;
    GrowingBuffer targets_, sums_;
    std::deque<GrowingBuffer> copies_;  // of rows from elsewhere: the reference's, a candidate's
    size_t n_copied_ = 0;
};

}  // namespace
}  // namespace cuda

int device_of(const void* address) {
    cudaPointerAttributes attributes;
    if (cudaPointerGetAttributes(&attributes, address) != cudaSuccess) {
        cudaGetLastError();
        return -1;
    }
    return attributes.type == cudaMemoryTypeDevice ? attributes.device : -1;
}

void copy_to_host(void* to, const void* from, size_t bytes) {
    APEX_CUDA_CALL(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
}

std::shared_ptr<void> make_pinned(size_t bytes) {
    auto buffer = std::make_shared<cuda::PinnedBuffer>(bytes);
    return {buffer, buffer->as()};
}

std::unique_ptr<DeviceRowBuffer> make_device_rows(int device, size_t bytes) {
    return std::make_unique<cuda::RowBuffer>(device, bytes);
}

std::unique_ptr<DeviceSoftmax> make_device_softmax(int device) {
    return std::make_unique<cuda::Scores>(device);
}

}  // namespace apex
