#include "moments/moment_source.h"

#include <algorithm>
#include <atomic>

#include "core/error.h"
#include "core/worker_group.h"
#include "moments/products.h"

namespace apex {
namespace {

std::atomic<int64_t> n_made{0};

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
                           const int64_t* counts, const int64_t* part_counts, int n_threads)
    : number_(++n_made),
      n_(n),
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
    if (n_slices > 1) find_layer_means(n_threads);
}

// Elements know nothing of each other, so any split over threads gives the same means.
void MomentSource::find_layer_means(int n_threads) {
    constexpr int64_t kElements = 16 * 1024;
    const int64_t packed = packed_size(n_);
    double tokens[3] = {};
    for (const MomentPart which : kParts) {
        const auto part = static_cast<size_t>(which);
        layer_[part].assign(static_cast<size_t>(packed), 0.0);
        for (int64_t slice = 0; slice < n_slices_; ++slice) {
            tokens[part] += static_cast<double>(count(slice, which));
        }
    }
    const auto add_up = [&](int64_t unit) {
        const int64_t end = std::min((unit + 1) * kElements, packed);
        for (int64_t slice = 0; slice < n_slices_; ++slice) {
            const float *total = this->total(slice), *part = this->part(slice);
            for (int64_t i = unit * kElements; i < end; ++i) {
                const auto at = static_cast<size_t>(i);
                layer_[0][at] += total[i];
                layer_[1][at] += part[i];
                layer_[2][at] += static_cast<double>(total[i]) - static_cast<double>(part[i]);
            }
        }
        for (int which = 0; which < 3; ++which) {
            for (int64_t i = unit * kElements; i < end; ++i) {
                layer_[which][static_cast<size_t>(i)] /= std::max(tokens[which], 1.0);
            }
        }
    };
    WorkerGroup workers(n_threads, (packed + kElements - 1) / kElements, [&] { return add_up; });
    workers.join();
}

int64_t MomentSource::count(int64_t slice, MomentPart which) const {
    if (which == MomentPart::all) return counts_[slice];
    if (which == MomentPart::part) return part_counts_[slice];
    return counts_[slice] - part_counts_[slice];
}

const float* MomentSource::total(int64_t slice) const {
    return total_ + slice * packed_size(n_);
}

const float* MomentSource::part(int64_t slice) const {
    return part_ + slice * packed_size(n_);
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
