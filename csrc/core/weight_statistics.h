// What the weights of a tensor look like: moments and outliers, streamed from the file.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/row_source.h"

namespace apex {

struct WeightStatistics {
    int64_t n = 0;
    double mean = 0;
    double rms = 0;
    double max_abs = 0;
    double kurtosis = 0;       // fourth central moment / variance^2; a Gaussian has 3
    double outlier_share = 0;  // share beyond 4 times the rms of their row; Gaussian: 6.3e-5
};

// One result per tensor, in order. Throws Cancelled soon after cancelled becomes true.
std::vector<WeightStatistics> weight_statistics(const std::vector<StoredTensor>& tensors,
                                                int n_threads, const std::atomic<bool>& cancelled);

}  // namespace apex
