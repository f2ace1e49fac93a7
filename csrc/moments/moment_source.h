// The second moments of a tensor's inputs as calibration stored them, and what to believe of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace apex {

// How far a collected moment is trusted.
struct Trust {
    double shrink = 0;  // off-diagonal elements lose this share
    double layer_tokens =
        0;  // an expert's moment is blended with so many tokens of its layer's mean
};

enum class MomentPart { all, part, rest };

// Lower triangles, packed as in moments/products.h, of sums over tokens: of all, and of the part
// that is held out in turn. Borrowed.
class MomentSource {
  public:
    MomentSource(int64_t n, int64_t n_slices, const float* total, const float* part,
                 const int64_t* counts, const int64_t* part_counts, int n_threads = 1);

    int64_t n() const { return n_; }
    int64_t n_slices() const { return n_slices_; }
    int64_t count(int64_t slice, MomentPart which) const;

    // Another for each that was ever made in this process.
    int64_t number() const { return number_; }
    const float* total(int64_t slice) const;
    const float* part(int64_t slice) const;
    // Packed, over all slices; null where there is one.
    const double* layer_mean(MomentPart which) const {
        const std::vector<double>& mean = layer_[static_cast<size_t>(which)];
        return mean.empty() ? nullptr : mean.data();
    }

    // Mean over tokens, dense n x n; zeros where there are none.
    std::vector<double> mean(int64_t slice, MomentPart which) const;
    std::vector<double> trusted(int64_t slice, MomentPart which, const Trust& trust) const;

  private:
    double sum_at(int64_t slice, MomentPart which, int64_t i) const;
    void find_layer_means(int n_threads);
    void add_layer_mean(MomentPart which, double tokens, std::vector<double>& packed) const;

    int64_t number_, n_, n_slices_;
    const float *total_, *part_;
    const int64_t *counts_, *part_counts_;
    std::vector<double> layer_[3];  // packed means over all slices; empty for a single one
};

}  // namespace apex
