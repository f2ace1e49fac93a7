// core/device_upload.h on CUDA.
#include "core/device_upload.h"

#include <array>

#include "cuda/runtime.h"

namespace apex {
namespace cuda {
namespace {

class Upload final : public DeviceUpload {
  public:
    Upload(int device, size_t piece_bytes) : device_(device) {
        use_device(device_);
        stream_ = std::make_unique<Stream>();
        for (Room& room : rooms_) {
            room.memory = PinnedBuffer(piece_bytes);
            room.left = std::make_unique<Event>(cudaEventBlockingSync | cudaEventDisableTiming);
        }
    }

    ~Upload() override { cudaStreamSynchronize(stream_->get()); }

    uint8_t* room() override {
        use_device(device_);
        const Room& room = rooms_[next_];
        room.left->wait();
        return room.memory.as<uint8_t>();
    }

    void send(void* to, size_t n_bytes, size_t n_zeros) override {
        use_device(device_);
        const Room& room = rooms_[next_];
        next_ = (next_ + 1) % rooms_.size();
        APEX_CUDA_CALL(
            cudaMemcpyAsync(to, room.memory.as(), n_bytes, cudaMemcpyHostToDevice, stream_->get()));
        if (n_zeros > 0) {
            APEX_CUDA_CALL(
                cudaMemsetAsync(static_cast<char*>(to) + n_bytes, 0, n_zeros, stream_->get()));
        }
        room.left->record(*stream_);
    }

    void wait() override {
        use_device(device_);
        for (const Room& room : rooms_) room.left->wait();
    }

  private:
    struct Room {
        PinnedBuffer memory;
        std::unique_ptr<Event> left;  // never recorded: nothing to wait for
    };

    int device_;
    std::array<Room, 2> rooms_;
    size_t next_ = 0;
    std::unique_ptr<Stream> stream_;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<DeviceUpload> make_device_upload(int device, size_t piece_bytes) {
    return std::make_unique<cuda::Upload>(device, piece_bytes);
}

}  // namespace apex
