// The launches behind scoring/device_softmax.h. All pointers are to the device's memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "scoring/softmax_sums.h"

namespace apex::cuda {

// Fills max, target, top and is_finite of n_rows.
cudaError_t launch_find_top(const float* rows, int64_t n_rows, int64_t n_vocab,
                            const int32_t* targets, SoftmaxSums* sums, cudaStream_t stream);

struct CompareJob {
    const float* reference = nullptr;  // null: the candidate alone
    const float* candidate = nullptr;  // null: the reference alone
    int64_t n_rows = 0;
    int64_t n_vocab = 0;
    bool is_coded = false;
    SoftmaxSums* reference_sums = nullptr;  // max is known; sum is filled in
    SoftmaxSums* candidate_sums = nullptr;  // max is known; sum and difference are filled in
};

cudaError_t launch_compare(const CompareJob& job, cudaStream_t stream);

}  // namespace apex::cuda
