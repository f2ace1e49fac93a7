// Second moments of inputs, added up where the inputs lie: on a GPU. Implemented by csrc/cuda; a
// build without CUDA has cuda/no_cuda_model.cpp, whose functions say so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "calibration/device_squares.h"
#include "core/device_input.h"

namespace apex {

// Sums on the host, packed as in moments/products.h: n_matrices triangles, and rows of each.
struct MomentOnHost {
    double* part;
    double* rest;
    int64_t* counts;
    int64_t* part_counts;
};

// X^T X of both halves; every sum has the CPU's order (moments/products.h) and its bits. Used by
// one thread at a time.
class DeviceMoments {
  public:
    virtual ~DeviceMoments() = default;

    // Room for sums of zeros; nothing where the GPU's memory would not leave `spare` bytes free.
    virtual bool add_sums(size_t number, int64_t n_matrices, int64_t n_per_row, size_t spare) = 0;

    // Adds an input, whose sums of squares were computed just now. Waits for it, for the input may
    // be gone afterwards. Throws DeviceError.
    virtual void add(size_t number, const DeviceInput& input, const DeviceSums& squares,
                     bool in_part) = 0;

    virtual void write(size_t number, const MomentOnHost& from) = 0;
    virtual void read(size_t number, const MomentOnHost& to) = 0;
    // Of both halves together, and of the part, from `begin` on; rounded to float. Several threads
    // may read at once, while nothing else is called.
    virtual void read_floats(size_t number, size_t begin, size_t n, float* total, float* part) = 0;
    virtual void drop(size_t number) = 0;
};

std::unique_ptr<DeviceMoments> make_device_moments(int device);

}  // namespace apex
