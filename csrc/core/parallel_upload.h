// One large copy into a GPU's memory, by several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/device_upload.h"

namespace apex {

// Each thread takes the next piece, has it put into pinned memory of its own and sends it from
// there. A single thread copies 2 GiB/s from memory that is not pinned, 16 of these 30. Used by one
// thread.
class ParallelUpload {
  public:
    using MakeLane = std::function<std::unique_ptr<DeviceUpload>(size_t piece_bytes)>;

    // Lanes for n_threads, or fewer where make throws DeviceError: too little memory to pin.
    ParallelUpload(int n_threads, size_t piece_bytes, const MakeLane& make);

    int n_lanes() const { return static_cast<int>(lanes_.size()); }

    // Puts [offset, offset + n_bytes) of the source into a room; called by several threads.
    using Read = std::function<void(size_t offset, size_t n_bytes, uint8_t* room)>;

    // Returns when all n_bytes are there. Needs a lane. Throws what read throws, of the first piece
    // where it does, and DeviceError; nothing is on its way then either.
    void copy(const Read& read, size_t n_bytes, void* to);

  private:
    void wait();

    size_t piece_bytes_;
    std::vector<std::unique_ptr<DeviceUpload>> lanes_;
};

}  // namespace apex
