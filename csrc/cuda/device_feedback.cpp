// moments/device_feedback.h on CUDA: places on GPUs, shared by workers.
#include "moments/device_feedback.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "cuda/feedback_place.h"
#include "moments/scalar_format.h"

namespace apex {
namespace cuda {
namespace {

class Devices final : public FeedbackDevices {
  public:
    Devices(const std::vector<int>& devices, int n_places, int64_t n_per_row) {
        std::vector<size_t> counts;
        for (const int device : devices) {
            use_device(device);
            size_t free_bytes = 0, all = 0;
            APEX_CUDA_CALL(cudaMemGetInfo(&free_bytes, &all));
            const size_t each = feedback_place_bytes(n_per_row);
            if (free_bytes < each) {
                fail<DeviceError>("cuda:", device, " has ", free_bytes, " of ", all,
                                  " bytes free, error feedback on rows of ", n_per_row, " needs ",
                                  each, "; end what else uses the GPU, or use the CPU");
            }
            const size_t fitting = free_bytes / 10 * 9 / each;
            counts.push_back(std::clamp<size_t>(fitting, 1, static_cast<size_t>(n_places)));
        }
        for (int i = 0; i < n_places; ++i) {  // GPUs in turn
            for (size_t k = 0; k < devices.size(); ++k) {
                if (static_cast<size_t>(i) >= counts[k]) continue;
                places_.push_back(std::make_unique<Place>(devices[k]));
                free_.push_back(places_.back().get());
            }
        }
    }

    void use(const std::function<void(FeedbackPlace&)>& work) override {
        Place* place = take();
        try {
            work(*place);
        } catch (...) {
            give_back(place);
            throw;
        }
        give_back(place);
    }

  private:
    Place* take() {
        std::unique_lock<std::mutex> lock(mutex_);
        freed_.wait(lock, [this] { return !free_.empty(); });
        Place* place = free_.back();
        free_.pop_back();
        return place;
    }

    void give_back(Place* place) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            free_.push_back(place);
        }
        freed_.notify_one();
    }

    std::vector<std::unique_ptr<Place>> places_;
    std::vector<Place*> free_;
    std::mutex mutex_;
    std::condition_variable freed_;
};

}  // namespace
}  // namespace cuda

bool device_has_feedback(ggml_type type, int64_t n_per_row) {
    constexpr int64_t kMaxColumns = 8192;  // bases of more take tens of gigabytes
    return scalar_format(type) != nullptr && cuda::has_kernel(type, true) &&
           n_per_row % ggml_blck_size(type) == 0 && n_per_row <= kMaxColumns;
}

std::shared_ptr<FeedbackDevices> make_feedback_devices(const std::vector<int>& devices,
                                                       int n_places, int64_t n_per_row) {
    return std::make_shared<cuda::Devices>(devices, n_places, n_per_row);
}

}  // namespace apex
