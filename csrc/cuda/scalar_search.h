// The launches of searches with error feedback. All pointers are to the device's memory.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/search_job.cuh"

namespace apex::cuda {

// One after the other on the stream; job.scratch: search_floats() of every basis.
cudaError_t launch_search(const SearchJob& job, int n_bases, cudaStream_t stream);

}  // namespace apex::cuda
