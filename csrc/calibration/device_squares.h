// Sums of squared inputs of matrix multiplications, added up where the inputs lie: on a GPU.
// Implemented by csrc/cuda; a build without CUDA has cuda/no_cuda_model.cpp, whose functions say
// so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/device_input.h"

namespace apex {

// What a slot holds, in the GPU's memory: n_matrices x n_per_row sums, n_matrices counts.
struct DeviceSums {
    const double* sums = nullptr;
    const int64_t* counts = nullptr;
};

// The squares of some inputs, and totals they are added to. The order of every sum is that of
// calibration/squared_columns.h, so the totals are the CPU's bit for bit. Used by one thread.
class DeviceSquares {
  public:
    virtual ~DeviceSquares() = default;

    // Squares and sums an input; the slot keeps the result until its next compute(). Waits for it,
    // for the input may be gone afterwards. False, and nothing kept, where a sum is not finite or
    // an expert's number is none. Throws DeviceError.
    virtual bool compute(size_t slot, const DeviceInput& input) = 0;
    virtual DeviceSums sums(size_t slot) const = 0;

    // A total of n_matrices x n_per_row sums and n_counts counts that goes on from these.
    virtual size_t add_total(const double* sums, int64_t n_sums, const int64_t* counts,
                             int64_t n_counts) = 0;
    // total += slot; both of the same shape. A single count takes the first matrix's.
    virtual void add(size_t slot, size_t total) = 0;
    // Starts to copy a slot into pinned memory (core/device_memory.h); there after wait(), whatever
    // becomes of the slot meanwhile.
    virtual void start_read(size_t slot, double* sums, int64_t* counts) = 0;
    virtual void wait() = 0;

    virtual void read_total(size_t total, double* sums, int64_t* counts) = 0;
    virtual void drop_total(size_t total) = 0;
};

std::unique_ptr<DeviceSquares> make_device_squares(int device, size_t n_slots);

}  // namespace apex
