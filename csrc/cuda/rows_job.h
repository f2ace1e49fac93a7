// What a kernel launch is told: rows in device memory and where their blocks go.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/grid.cuh"
#include "ggml.h"

namespace apex::cuda {

enum class Source : int { f32, f16, bf16 };

// All pointers are to device memory, at addresses divisible by 16.
struct RowsJob {
    const void* src = nullptr;
    Source source = Source::f32;
    const float* imatrix = nullptr;  // of one row; not read by types asked for without
    void* dst = nullptr;
    int64_t n_blocks = 0;  // of all rows
    int64_t blocks_per_row = 0;
    uint8_t* overflowed = nullptr;  // one per row, zero before: set where the row's bytes are void
    Grid grid = {};
};

// Starts the kernel of a type's struct (all_types.cuh) on a stream. Instantiated in *.cu.
template <typename Type>
cudaError_t launch_rows(const RowsJob& job, cudaStream_t stream);

// The same by ggml type; cudaErrorNotSupported where there is no kernel.
cudaError_t launch_rows(ggml_type type, bool with_imatrix, const RowsJob& job, cudaStream_t stream);

bool has_kernel(ggml_type type, bool with_imatrix);

}  // namespace apex::cuda
