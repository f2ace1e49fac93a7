// The launches behind calibration/device_moments.h. All pointers are to the device's memory.
#pragma once

#include <cuda_runtime_api.h>

#include "calibration/device_squares.h"

namespace apex::cuda {

// Sums of n_matrices packed triangles, and counts: of the part, and of both halves.
struct MomentsOnDevice {
    double* part;
    double* rest;
    int64_t* counts;
    int64_t* part_counts;
};

// Of the device, while an input is added.
size_t moments_room_bytes(const DeviceInput& input);

// Adds an input's products and squares to its half. failed: set to 1 where
// an expert's number is none.
cudaError_t launch_moments(const DeviceInput& input, const DeviceSums& squares, bool in_part,
                           void* room, const MomentsOnDevice& sums, int* failed,
                           cudaStream_t stream);

// half, or half + other where that is not null, as floats.
cudaError_t launch_round(const double* half, const double* other, int64_t n, float* to,
                         cudaStream_t stream);

}  // namespace apex::cuda
