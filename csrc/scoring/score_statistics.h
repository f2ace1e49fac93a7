// What llama-perplexity prints of scored positions, by its definitions; sums in double, in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace apex {

// A mean and its standard error; both 0 where nothing was counted.
struct Estimate {
    double mean = 0;
    double error = 0;
};

// sqrt((E[x^2] - E[x]^2) / (n - 1)), the variance computed around the mean. A standard error needs
// two values.
Estimate estimate(const std::vector<double>& values);

// (E[xy] - E[x] E[y]) / (n - 1): the covariance of the two means.
double mean_covariance(const std::vector<double>& x, const std::vector<double>& y);

// Linear interpolation at fraction * (n - 1) of sorted values; 0 where there are none.
double quantile(const std::vector<double>& sorted, double fraction);

struct ComparisonStatistics {
    size_t n_positions = 0;   // finite in both
    size_t n_not_finite = 0;  // left out
    Estimate nll;             // of the candidate
    Estimate reference_nll;   // over the same positions
    Estimate log_ratio;       // ln(PPL / PPL of the reference)
    double correlation = 0;   // of the two nll means
    Estimate kld;
    std::vector<double> kld_quantiles;  // as asked for
    Estimate delta_p;                   // p(target) - p of the reference
    Estimate delta_p_rms;
    std::vector<double> delta_p_quantiles;  // as asked for
    Estimate same_top;
};

// One scored position each.
struct ScoredPositions {
    size_t n = 0;
    const double* reference_nll = nullptr;
    const uint8_t* reference_is_finite = nullptr;
    const double* nll = nullptr;
    const double* kld = nullptr;
    const uint8_t* is_same_top = nullptr;
    const uint8_t* is_finite = nullptr;
};

ComparisonStatistics compare_with_reference(const ScoredPositions& positions,
                                            const std::vector<double>& kld_fractions,
                                            const std::vector<double>& delta_p_fractions);

}  // namespace apex
