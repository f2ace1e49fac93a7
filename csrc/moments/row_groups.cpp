#include "moments/row_groups.h"

#include <algorithm>
#include <cmath>

#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/error.h"
#include "core/worker_group.h"

namespace apex {
namespace {

constexpr int kIterations = 12;
constexpr int64_t kMostRowsOfMeans = 16384;  // of larger weights so many decide the means
constexpr int64_t kRowsPerUnit = 1024;

using Rows = std::vector<float>;

// In eight sums of fixed order.
float dot(const float* a, const float* b, int64_t n) {
    float sums[8] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (int64_t k = 0; k < 8; ++k) sums[k] += a[i + k] * b[i + k];
    }
    for (; i < n; ++i) sums[0] += a[i] * b[i];
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
           ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

void normalize(float* row, int64_t n) {
    const float norm = std::sqrt(dot(row, row, n));
    if (!(norm > 0.0f)) return;
    for (int64_t i = 0; i < n; ++i) row[i] /= norm;
}

class Grouping {
  public:
    Grouping(ggml_type type, const uint8_t* data, int64_t n_rows, int64_t n)
        : type_(type), data_(data), n_rows_(n_rows), n_(n) {}

    std::vector<int32_t> run(int n_groups, int n_threads) {
        const int64_t n_taken = std::min(n_rows_, kMostRowsOfMeans);
        Rows taken(static_cast<size_t>(n_taken * n_));
        for (int64_t i = 0; i < n_taken; ++i) read(i * n_rows_ / n_taken, &taken[size_t(i * n_)]);
        set_mean(taken, n_taken);
        for (int64_t i = 0; i < n_taken; ++i) center(&taken[size_t(i * n_)]);
        begin(taken, n_taken, n_groups);
        for (int i = 0; i < kIterations; ++i) {
            move_means(taken, n_taken, nearest(n_taken, n_threads, [&](int64_t row, float* to) {
                           std::copy_n(&taken[size_t(row * n_)], n_, to);
                       }));
        }
        return numbered(nearest(n_rows_, n_threads, [&](int64_t row, float* to) {
            read(row, to);
            center(to);
        }));
    }

  private:
    int64_t n_groups() const { return static_cast<int64_t>(means_.size()) / n_; }

    void read(int64_t row, float* to) const {
        const size_t size = row_bytes(type_, n_);
        convert_to_float(type_, data_ + static_cast<size_t>(row) * size, to, n_);
    }

    void set_mean(const Rows& rows, int64_t n_rows) {
        std::vector<double> sums(static_cast<size_t>(n_), 0.0);
        for (size_t i = 0; i < rows.size(); ++i) sums[i % size_t(n_)] += double(rows[i]);
        for (const double sum : sums) mean_.push_back(float(sum / double(n_rows)));
    }

    void center(float* row) const {
        for (int64_t i = 0; i < n_; ++i) row[i] -= mean_[size_t(i)];
        normalize(row, n_);
    }

    void begin(const Rows& rows, int64_t n_rows, int n_groups) {
        for (int64_t i = 0; i < n_groups; ++i) {
            const float* row = &rows[size_t(i * n_rows / n_groups * n_)];
            means_.insert(means_.end(), row, row + n_);
        }
    }

    template <typename Read>
    std::vector<int32_t> nearest(int64_t n_rows, int n_threads, const Read& read_row) const {
        std::vector<int32_t> groups(static_cast<size_t>(n_rows));
        WorkerGroup workers(n_threads, (n_rows + kRowsPerUnit - 1) / kRowsPerUnit, [&] {
            return [&, row = Rows(static_cast<size_t>(n_))](int64_t unit) mutable {
                const int64_t end = std::min(n_rows, (unit + 1) * kRowsPerUnit);
                for (int64_t i = unit * kRowsPerUnit; i < end; ++i) {
                    read_row(i, row.data());
                    groups[size_t(i)] = nearest_mean(row.data());
                }
            };
        });
        workers.join();
        return groups;
    }

    int32_t nearest_mean(const float* row) const {
        int32_t best = 0;
        float most = -2.0f;
        for (int64_t i = 0; i < n_groups(); ++i) {
            const float likeness = dot(row, &means_[size_t(i * n_)], n_);
            if (likeness > most) {
                most = likeness;
                best = static_cast<int32_t>(i);
            }
        }
        return best;
    }

    // A group without rows keeps its mean.
    void move_means(const Rows& rows, int64_t n_rows, const std::vector<int32_t>& groups) {
        std::vector<double> sums(means_.size(), 0.0);
        for (int64_t i = 0; i < n_rows; ++i) {
            double* sum = &sums[size_t(groups[size_t(i)] * n_)];
            for (int64_t j = 0; j < n_; ++j) sum[j] += double(rows[size_t(i * n_ + j)]);
        }
        for (int64_t i = 0; i < n_groups(); ++i) {
            const double* sum = &sums[size_t(i * n_)];
            if (std::all_of(sum, sum + n_, [](double x) { return x == 0.0; })) continue;
            for (int64_t j = 0; j < n_; ++j) means_[size_t(i * n_ + j)] = float(sum[j]);
            normalize(&means_[size_t(i * n_)], n_);
        }
    }

    // Without the numbers that no row has.
    std::vector<int32_t> numbered(std::vector<int32_t> groups) const {
        std::vector<int32_t> number(static_cast<size_t>(n_groups()), 0);
        for (const int32_t group : groups) number[size_t(group)] = 1;
        int32_t next = 0;
        for (int32_t& used : number) used = used != 0 ? next++ : -1;
        for (int32_t& group : groups) group = number[size_t(group)];
        return groups;
    }

    ggml_type type_;
    const uint8_t* data_;
    int64_t n_rows_, n_;
    Rows mean_, means_;
};

}  // namespace

std::vector<int32_t> group_rows(ggml_type type, const uint8_t* data, int64_t n_rows, int64_t n,
                                int n_groups, int n_threads) {
    if (n_rows < 1 || n < 1 || n_groups < 1 || n_groups > n_rows) {
        fail<InvalidArgument>(n_groups, " groups of ", n_rows, " rows");
    }
    return Grouping(type, data, n_rows, n).run(n_groups, n_threads);
}

bool can_reorder(const StoredTensor& tensor) {
    return std::none_of(tensor.ranges.begin(), tensor.ranges.end(),
                        [](const RowRange& range) { return range.blocks != nullptr; });
}

StoredTensor rows_of_group(const StoredTensor& tensor, const std::vector<int32_t>& groups,
                           int32_t group) {
    if (!can_reorder(tensor) || static_cast<int64_t>(groups.size()) != tensor.rows.n_rows()) {
        fail<InvalidArgument>(tensor.name, ": ", groups.size(), " rows in groups, of ",
                              tensor.rows.n_rows());
    }
    StoredTensor result{tensor.name, tensor.type, tensor.rows, {}};
    result.rows.n_slices = 1;
    result.rows.rows_per_slice = std::count(groups.begin(), groups.end(), group);
    int64_t first = 0;
    for (const RowRange& range : tensor.ranges) {
        std::vector<int32_t> order;
        for (int64_t i = 0; i < range.n_rows; ++i) {
            if (groups[size_t(first + i)] != group) continue;
            order.push_back(range.order ? (*range.order)[size_t(i)] : static_cast<int32_t>(i));
        }
        first += range.n_rows;
        if (order.empty()) continue;
        RowRange taken = range;
        taken.n_rows = static_cast<int64_t>(order.size());
        taken.order = std::make_shared<const std::vector<int32_t>>(std::move(order));
        result.ranges.push_back(std::move(taken));
    }
    return result;
}

}  // namespace apex
