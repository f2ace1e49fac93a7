#include "calibration/imatrix_totals.h"

#include "calibration/squared_columns.h"
#include "core/error.h"

namespace apex {
namespace {

constexpr int64_t kThreadedSums = 1 << 16;  // worth waking the other threads for

void add_matrices(const SquaresView& squares, int64_t first, int64_t last, ImatrixSums& total) {
    for (int64_t i = first; i < last; ++i) {
        if (squares.counts[i] == 0) continue;
        const int64_t begin = i * squares.n_per_row;
        add_sums(squares.sums + begin, 0, squares.n_per_row, total.sums.data() + begin);
    }
}

void check_count(const std::string& weight, int64_t count) {
    if (count > kMaxTokenCount) fail<ModelError>(weight, ": more than 2^53 tokens");
}

}  // namespace

// The weight's total on the host, of zeros where it is new; its shape is checked.
ImatrixSums& ImatrixTotals::begin(const WeightReader& reader, int64_t n_matrices,
                                  int64_t n_per_row) {
    const auto& [weight, is_routed] = reader;
    const auto n_sums = static_cast<size_t>(n_matrices * n_per_row);
    ImatrixSums& total = on_host_[weight];
    if (total.sums.empty()) {
        total.n_per_row = n_per_row;
        total.sums.assign(n_sums, 0.0);
        total.counts.assign(is_routed ? static_cast<size_t>(n_matrices) : 1, 0);
    }
    if (total.n_per_row != n_per_row || total.sums.size() != n_sums ||
        (is_routed && total.counts.size() != static_cast<size_t>(n_matrices))) {
        fail<ModelError>(weight, ": collected as ", total.counts.size(), " x ", total.n_per_row,
                         " before, now it is ", n_matrices, " x ", n_per_row,
                         "; was this matrix collected from another model?");
    }
    return total;
}

void ImatrixTotals::add(const WeightReader& reader, const SquaresView& squares) {
    bring_to_host(reader.name);
    const int64_t n_matrices = squares.n_matrices;
    ImatrixSums& total = begin(reader, n_matrices, squares.n_per_row);
    if (n_matrices * squares.n_per_row < kThreadedSums) {
        add_matrices(squares, 0, n_matrices, total);
    } else {
        pool_.run([&](int thread, int n_threads) {
            add_matrices(squares, n_matrices * thread / n_threads,
                         n_matrices * (thread + 1) / n_threads, total);
        });
    }
    // As upstream counts: a weight that is not routed has one count, rows by matrix.
    for (size_t i = 0; i < total.counts.size(); ++i) {
        const int64_t count = squares.counts[reader.is_routed ? i : 0];
        check_count(reader.name, total.counts[i] + count);
        total.counts[i] += count;
    }
}

void ImatrixTotals::add(const WeightReader& reader, const DeviceSlot& slot) {
    begin(reader, slot.n_matrices, slot.n_per_row);
    OnDevice& total = bring_to_device(reader.name, *slot.squares);
    slot.squares->add(slot.slot, total.number);
    total.changed = true;
}

void ImatrixTotals::restore(const std::string& weight, ImatrixSums sums) {
    const auto n_sums = static_cast<int64_t>(sums.sums.size());
    const auto n_counts = static_cast<int64_t>(sums.counts.size());
    const bool whole = sums.n_per_row > 0 && n_sums > 0 && n_sums % sums.n_per_row == 0;
    if (!whole || (n_counts != 1 && n_counts != n_sums / sums.n_per_row)) {
        fail<InvalidArgument>(weight, ": ", n_sums, " sums of rows of ", sums.n_per_row, " and ",
                              n_counts, " counts do not go together");
    }
    for (const int64_t count : sums.counts) {
        if (count < 0 || count > kMaxTokenCount) {
            fail<InvalidArgument>(weight, ": a count of ", count);
        }
    }
    bring_to_host(weight);
    on_host_[weight] = std::move(sums);
}

const std::map<std::string, ImatrixSums>& ImatrixTotals::read() {
    for (auto& [weight, total] : on_device_) copy_to_host(weight, total);
    return on_host_;
}

void ImatrixTotals::copy_to_host(const std::string& weight, OnDevice& total) {
    if (!total.changed) return;
    ImatrixSums& sums = on_host_.at(weight);
    total.squares->read_total(total.number, sums.sums.data(), sums.counts.data());
    for (const int64_t count : sums.counts) check_count(weight, count);
    total.changed = false;
}

// Ends a total on a GPU, if there is one.
void ImatrixTotals::bring_to_host(const std::string& weight) {
    const auto found = on_device_.find(weight);
    if (found == on_device_.end()) return;
    copy_to_host(weight, found->second);
    found->second.squares->drop_total(found->second.number);
    on_device_.erase(found);
}

ImatrixTotals::OnDevice& ImatrixTotals::bring_to_device(const std::string& weight,
                                                        DeviceSquares& squares) {
    const auto found = on_device_.find(weight);
    if (found != on_device_.end() && found->second.squares == &squares) return found->second;
    bring_to_host(weight);
    const ImatrixSums& sums = on_host_.at(weight);
    OnDevice& total = on_device_[weight];
    total.squares = &squares;
    total.number = squares.add_total(sums.sums.data(), static_cast<int64_t>(sums.sums.size()),
                                     sums.counts.data(), static_cast<int64_t>(sums.counts.size()));
    return total;
}

}  // namespace apex
