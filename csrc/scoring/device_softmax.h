// Rows of logits in a GPU's memory: kept there, and added up there. Implemented by csrc/cuda; a
// build without CUDA has cuda/no_cuda_model.cpp, whose functions say so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "scoring/softmax_sums.h"

namespace apex {

// Memory of a GPU that rows are copied to before their place is needed for others.
class DeviceRowBuffer {
  public:
    virtual ~DeviceRowBuffer() = default;
    virtual float* data() = 0;
    virtual size_t size() const = 0;  // bytes
    // From anywhere; returns when it is done.
    virtual void copy_from(size_t offset, const void* from, size_t bytes) = 0;
};

// Throws DeviceError with the numbers where there is no room.
std::unique_ptr<DeviceRowBuffer> make_device_rows(int device, size_t bytes);

// The rows of one step. Those that are not in the device's memory are copied there.
struct DeviceSoftmaxJob {
    int64_t n_rows = 0;
    int64_t n_vocab = 0;
    const int32_t* targets = nullptr;  // n_rows, on the host
    const float* reference = nullptr;  // null: the candidates alone
    bool is_coded = false;             // the reference is log-probabilities (score_rows_coded)
    std::vector<const float*> candidates;
};

// Adds rows up on one GPU in the order, and with the arithmetic, of kernels/softmax.h: the sums are
// the CPU's bit for bit. Used by one thread.
class DeviceSoftmax {
  public:
    virtual ~DeviceSoftmax() = default;
    // sums: n_rows of the reference, if there is one, then n_rows of each candidate. Throws
    // DeviceError.
    virtual void add_up(const DeviceSoftmaxJob& job, SoftmaxSums* sums) = 0;
};

std::unique_ptr<DeviceSoftmax> make_device_softmax(int device);

}  // namespace apex
