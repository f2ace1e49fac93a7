#include "moments/moment_source.h"

#include <algorithm>

#include "core/error.h"
#include "moments/products.h"

namespace apex {
namespace {

constexpr MomentPart kParts[] = {MomentPart::all, MomentPart::part, MomentPart::rest};

std::vector<double> unpack(const std::vector<double>& packed, int64_t n, double kept) {
    std::vector<double> dense(static_cast<size_t>(n * n));
    for (int64_t i = 0; i < n; ++i) {
        const double* row = packed.data() + packed_size(i);
        for (int64_t j = 0; j < i; ++j) {
            dense[static_cast<size_t>(i * n + j)] = kept * row[j];
            dense[static_cast<size_t>(j * n + i)] = kept * row[j];
        }
        dense[static_cast<size_t>(i * n + i)] = row[i];
    }
    return dense;
}

}  // namespace

MomentSource::MomentSource(int64_t n, int64_t n_slices, const float* total, const float* part,
                           const int64_t* counts, const int64_t* part_counts)
    : n_(n),
      n_slices_(n_slices),
      total_(total),
      part_(part),
      counts_(counts),
      part_counts_(part_counts) {
    if (n < 1 || n_slices < 1) fail<InvalidArgument>("a moment of no columns, or of no matrix");
    for (int64_t i = 0; i < n_slices; ++i) {
        if (part_counts[i] < 0 || counts[i] < part_counts[i]) {
            fail<InvalidArgument>("matrix ", i, ": ", part_counts[i], " tokens of ", counts[i]);
        }
    }
    if (n_slices == 1) return;
    for (const MomentPart which : kParts) {
        std::vector<double>& layer = layer_[static_cast<size_t>(which)];
        layer.assign(static_cast<size_t>(packed_size(n)), 0.0);
        double tokens = 0;
        for (int64_t slice = 0; slice < n_slices; ++slice) {
            tokens += static_cast<double>(count(slice, which));
            for (int64_t i = 0; i < packed_size(n); ++i) {
                layer[static_cast<size_t>(i)] += sum_at(slice, which, i);
            }
        }
        for (double& value : layer) value /= std::max(tokens, 1.0);
    }
}

int64_t MomentSource::count(int64_t slice, MomentPart which) const {
    if (which == MomentPart::all) return counts_[slice];
    if (which == MomentPart::part) return part_counts_[slice];
    return counts_[slice] - part_counts_[slice];
}

double MomentSource::sum_at(int64_t slice, MomentPart which, int64_t i) const {
    const int64_t at = slice * packed_size(n_) + i;
    if (which == MomentPart::all) return total_[at];
    if (which == MomentPart::part) return part_[at];
    return static_cast<double>(total_[at]) - static_cast<double>(part_[at]);
}

void MomentSource::add_layer_mean(MomentPart which, double tokens,
                                  std::vector<double>& packed) const {
    const std::vector<double>& layer = layer_[static_cast<size_t>(which)];
    for (size_t i = 0; i < layer.size(); ++i) packed[i] += tokens * layer[i];
}

std::vector<double> MomentSource::mean(int64_t slice, MomentPart which) const {
    return trusted(slice, which, Trust{});
}

std::vector<double> MomentSource::trusted(int64_t slice, MomentPart which,
                                          const Trust& trust) const {
    std::vector<double> packed(static_cast<size_t>(packed_size(n_)));
    for (size_t i = 0; i < packed.size(); ++i) {
        packed[i] = sum_at(slice, which, static_cast<int64_t>(i));
    }
    double tokens = static_cast<double>(count(slice, which));
    if (n_slices_ > 1) {
        add_layer_mean(which, trust.layer_tokens, packed);
        tokens += trust.layer_tokens;
    }
    if (tokens > 0) {
        for (double& value : packed) value /= tokens;
    }
    return unpack(packed, n_, 1.0 - trust.shrink);
}

}  // namespace apex
