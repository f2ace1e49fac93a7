// The loops of softmax and Kullback-Leibler divergence over one vocabulary.
//
// Everything is in double, sums run in 16 lanes (entry i goes to lane i % 16) whatever the width of
// the vectors, and nothing is contracted to FMA: every instruction set gives the same bits.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "softmax_lanes.h"

namespace apex::kernels {

// n is a multiple of kSoftmaxLanes; sums and differences have one entry a lane.
struct SoftmaxLoops {
    // Raises max to the largest of x; false if a value is NaN or infinite.
    bool (*find_max)(const float* x, int64_t n, float& max);
    // sums += exp(x - max). exp has a relative error below 1e-14 and takes less than -700 for -700.
    void (*sum_exp)(const float* x, double max, int64_t n, double* sums);
    // weights = exp(x - max), or 0 where x <= floor; sums += weights.
    void (*weigh)(const float* x, double max, double floor, int64_t n, double* weights,
                  double* sums);
    // sums += exp(y - max), differences += weights * (x - y).
    void (*compare)(const float* x, const float* y, const double* weights, double max, int64_t n,
                    double* sums, double* differences);
};

const SoftmaxLoops& softmax_loops(Isa isa);

// The lanes' sum, always in the same order.
double add_lanes(const double* lanes);

}  // namespace apex::kernels
