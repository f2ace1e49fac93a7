// The rows that go to each expert, in their order: found once for all that is done with them.
#pragma once

#include <cuda_runtime_api.h>

#include "core/device_input.h"

namespace apex::cuda {

inline constexpr int64_t kMaxRoutedExperts = 1024;

// Numbers of rows (cuda/squares.cuh) sorted by expert. Pointers into the device's memory.
struct RoutedRows {
    int32_t* counts;  // n_experts
    int32_t* begins;  // n_experts; where an expert's rows begin
    uint32_t* rows;   // n_used x n_tokens
};

// Bytes of counts and begins, then of rows.
size_t routed_rows_bytes(const DeviceInput& input);
RoutedRows routed_rows_at(void* memory, const DeviceInput& input);

// failed: set to 1 where an expert's number is none; its row is left out.
cudaError_t launch_sort_rows(const DeviceInput& input, const RoutedRows& rows, int* failed,
                             cudaStream_t stream);

}  // namespace apex::cuda
