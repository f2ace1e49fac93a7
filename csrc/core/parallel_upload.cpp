#include "core/parallel_upload.h"

#include <algorithm>
#include <exception>

#include "core/error.h"
#include "core/worker_group.h"

namespace apex {

ParallelUpload::ParallelUpload(int n_threads, size_t piece_bytes, const MakeLane& make)
    : piece_bytes_(piece_bytes) {
    try {
        for (int i = 0; i < n_threads; ++i) lanes_.push_back(make(piece_bytes));
    } catch (const DeviceError&) {
        // Fewer do too; none is the caller's matter.
    }
}

void ParallelUpload::copy(const Read& read, size_t n_bytes, void* to) {
    auto* const target = static_cast<uint8_t*>(to);
    const size_t n_pieces = (n_bytes + piece_bytes_ - 1) / piece_bytes_;
    std::exception_ptr error;
    try {
        run_lanes(lanes_, static_cast<int64_t>(n_pieces),
                  [&](const std::unique_ptr<DeviceUpload>& lane, int64_t piece) {
                      const size_t offset = static_cast<size_t>(piece) * piece_bytes_;
                      const size_t n = std::min(piece_bytes_, n_bytes - offset);
                      uint8_t* const room = lane->room();
                      read(offset, n, room);
                      lane->send(target + offset, n, 0);
                  });
    } catch (...) {
        error = std::current_exception();
    }
    try {
        wait();
    } catch (...) {
        if (!error) error = std::current_exception();
    }
    if (error) std::rethrow_exception(error);
}

// For every lane, whatever happens to one of them.
void ParallelUpload::wait() {
    std::exception_ptr error;
    for (const std::unique_ptr<DeviceUpload>& lane : lanes_) {
        try {
            lane->wait();
        } catch (...) {
            if (!error) error = std::current_exception();
        }
    }
    if (error) std::rethrow_exception(error);
}

}  // namespace apex
