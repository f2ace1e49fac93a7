// Copies from the host into a GPU's memory that run beside its computations. Implemented by
// csrc/cuda; a build without CUDA has cuda/no_cuda_model.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace apex {

// Of weights: long enough for the bus; short beside a weight, of which the last piece decides, and
// short enough to go from the file to the bus through a core's cache.
inline constexpr size_t kUploadPiece = 2u << 20;

// Pieces go through two rooms of pinned memory: one is filled while the other is on its way. Used
// by one thread. All throw DeviceError.
class DeviceUpload {
  public:
    virtual ~DeviceUpload() = default;

    // Where the next piece is to be put; waits until the piece before the last one has left.
    virtual uint8_t* room() = 0;

    // Sends the first bytes of the room, followed by zeros, to an address of the GPU.
    virtual void send(void* to, size_t n_bytes, size_t n_zeros) = 0;

    // Returns when all that was sent is there.
    virtual void wait() = 0;
};

std::unique_ptr<DeviceUpload> make_device_upload(int device, size_t piece_bytes);

}  // namespace apex
