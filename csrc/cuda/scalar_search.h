// The launch of searches with error feedback. All pointers are to the device's memory.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/search_memory.cuh"

namespace apex::cuda {

// How rows are spread: `rows` a block of threads, whose every thread owns `slots` columns.
struct SearchShape {
    int rows, slots, threads;
};

// For rows of n; rows = 0: they are too long.
SearchShape search_shape(int n);

// Floats of scratch that n_rows rows under n_bases bases need.
size_t search_scratch(const SearchJob& job, int n_bases);

cudaError_t launch_search(const SearchJob& job, int n_bases, cudaStream_t stream);

}  // namespace apex::cuda
