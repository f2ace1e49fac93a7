#include "scoring/score_statistics.h"

#include <algorithm>
#include <cmath>

namespace apex {
namespace {

double mean_of(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value;
    return values.empty() ? 0 : sum / double(values.size());
}

std::vector<double> quantiles(std::vector<double> values, const std::vector<double>& fractions) {
    std::sort(values.begin(), values.end());
    std::vector<double> found;
    for (const double fraction : fractions) found.push_back(quantile(values, fraction));
    return found;
}

// sqrt(mean(d^2)); its error follows from that of the mean square: d sqrt(m) = dm / (2 sqrt(m)).
Estimate root_mean_square(const std::vector<double>& differences) {
    std::vector<double> squares(differences.size());
    std::transform(differences.begin(), differences.end(), squares.begin(),
                   [](double d) { return d * d; });
    const Estimate square = estimate(squares);
    const double root = std::sqrt(square.mean);
    return {root, root == 0 ? 0 : 0.5 / root * square.error};
}

}  // namespace

Estimate estimate(const std::vector<double>& values) {
    const double mean = mean_of(values);
    if (values.size() < 2) return {mean, 0};
    double sum = 0;
    for (const double value : values) sum += (value - mean) * (value - mean);
    const auto n = double(values.size());
    return {mean, std::sqrt(sum / n / (n - 1))};
}

double mean_covariance(const std::vector<double>& x, const std::vector<double>& y) {
    if (x.size() < 2) return 0;
    const double mean_x = mean_of(x);
    const double mean_y = mean_of(y);
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - mean_x) * (y[i] - mean_y);
    const auto n = double(x.size());
    return sum / n / (n - 1);
}

double quantile(const std::vector<double>& sorted, double fraction) {
    if (sorted.empty()) return 0;
    const double place = std::clamp(fraction, 0.0, 1.0) * double(sorted.size() - 1);
    const auto below = static_cast<size_t>(place);
    const size_t above = std::min(below + 1, sorted.size() - 1);
    const double part = place - double(below);
    return (1 - part) * sorted[below] + part * sorted[above];
}

ComparisonStatistics compare_with_reference(const ScoredPositions& positions,
                                            const std::vector<double>& kld_fractions,
                                            const std::vector<double>& delta_p_fractions) {
    std::vector<double> nll, reference_nll, kld, delta_p, same_top, ratio;
    for (size_t i = 0; i < positions.n; ++i) {
        if (!positions.is_finite[i] || !positions.reference_is_finite[i]) continue;
        nll.push_back(positions.nll[i]);
        reference_nll.push_back(positions.reference_nll[i]);
        ratio.push_back(positions.nll[i] - positions.reference_nll[i]);
        kld.push_back(positions.kld[i]);
        delta_p.push_back(std::exp(-positions.nll[i]) - std::exp(-positions.reference_nll[i]));
        same_top.push_back(positions.is_same_top[i] ? 1 : 0);
    }
    ComparisonStatistics result;
    result.n_positions = nll.size();
    result.n_not_finite = positions.n - nll.size();
    result.nll = estimate(nll);
    result.reference_nll = estimate(reference_nll);
    // The standard error of the difference of two means over the same positions: var(a) + var(b)
    // - 2 cov(a, b), which is the variance of the differences.
    result.log_ratio = estimate(ratio);
    const double errors = result.nll.error * result.reference_nll.error;
    result.correlation = errors == 0 ? 0 : mean_covariance(nll, reference_nll) / errors;
    result.kld = estimate(kld);
    result.kld_quantiles = quantiles(std::move(kld), kld_fractions);
    result.delta_p = estimate(delta_p);
    result.delta_p_rms = root_mean_square(delta_p);
    result.delta_p_quantiles = quantiles(std::move(delta_p), delta_p_fractions);
    result.same_top = estimate(same_top);
    return result;
}

}  // namespace apex
