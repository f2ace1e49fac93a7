#include "core/weight_statistics.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <utility>

#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/error.h"
#include "core/worker_group.h"

namespace apex {
namespace {

constexpr double kOutlierFactor = 4.0;

// Sums of powers of the distance from the mean. Not raw power sums: norm weights lie close to 1,
// and their fourth moment would drown in the rounding of 1 - 4 + 6 - 3.
struct CentralSums {
    int64_t n = 0;
    double mean = 0;
    double d2 = 0, d3 = 0, d4 = 0;
    double max_abs = 0;
    int64_t outliers = 0;
};

// One pass around the row's first weight, which is within the row's own spread of its mean, so the
// shift to the mean costs few digits; equal weights give exact zeros.
CentralSums row_sums(const float* row, int64_t n_per_row) {
    const double pivot = row[0];
    double s1 = 0, s2 = 0, s3 = 0, s4 = 0;
    float max_abs = 0;
    for (int64_t i = 0; i < n_per_row; ++i) {
        const double x = row[i] - pivot;
        const double square = x * x;
        s1 += x;
        s2 += square;
        s3 += square * x;
        s4 += square * square;
        max_abs = std::max(max_abs, std::fabs(row[i]));
    }
    const auto n = static_cast<double>(n_per_row);
    const double shift = s1 / n;
    CentralSums sums;
    sums.n = n_per_row;
    sums.mean = pivot + shift;
    sums.d2 = std::max(0.0, s2 - shift * s1);
    sums.d3 = s3 - 3 * shift * s2 + 2 * shift * shift * s1;
    sums.d4 = s4 - 4 * shift * s3 + 6 * shift * shift * s2 - 3 * shift * shift * shift * s1;
    sums.max_abs = max_abs;
    const double rms = std::sqrt(sums.d2 / n + sums.mean * sums.mean);
    const auto limit = static_cast<float>(kOutlierFactor * rms);
    if (max_abs > limit) {
        sums.outliers =
            std::count_if(row, row + n_per_row, [&](float x) { return std::fabs(x) > limit; });
    }
    return sums;
}

// Pebay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order
// statistical moments", SAND2008-6212: the pairwise updates of orders 2 to 4.
void add(const CentralSums& part, CentralSums& total) {
    if (total.n == 0) {
        total = part;
        return;
    }
    const auto a = static_cast<double>(total.n), b = static_cast<double>(part.n);
    const double n = a + b;
    const double delta = part.mean - total.mean;
    const double step = delta / n;
    total.d4 += part.d4 + delta * step * step * step * a * b * (a * a - a * b + b * b) +
                6 * step * step * (a * a * part.d2 + b * b * total.d2) +
                4 * step * (a * part.d3 - b * total.d3);
    total.d3 +=
        part.d3 + delta * step * step * a * b * (a - b) + 3 * step * (a * part.d2 - b * total.d2);
    total.d2 += part.d2 + delta * step * a * b;
    total.mean += step * b;
    total.n += part.n;
    total.max_abs = std::max(total.max_abs, part.max_abs);
    total.outliers += part.outliers;
}

WeightStatistics finish(const CentralSums& sums) {
    WeightStatistics result;
    if (sums.n == 0) return result;
    const auto n = static_cast<double>(sums.n);
    result.n = sums.n;
    result.mean = sums.mean;
    result.rms = std::sqrt(sums.d2 / n + sums.mean * sums.mean);
    result.max_abs = sums.max_abs;
    result.kurtosis = sums.d2 > 0 ? n * sums.d4 / (sums.d2 * sums.d2) : 0;
    result.outlier_share = static_cast<double>(sums.outliers) / n;
    return result;
}

RowUnits cut(const std::vector<StoredTensor>& tensors) {
    std::vector<TensorRows> rows;
    rows.reserve(tensors.size());
    for (const StoredTensor& tensor : tensors) rows.push_back(tensor.rows);
    return RowUnits(std::move(rows));
}

struct Buffers {
    std::vector<uint8_t> stored;
    std::vector<float> weights;
};

CentralSums unit_sums(const StoredTensor& tensor, const RowUnit& unit, Buffers& buffers) {
    const int64_t n_per_row = tensor.rows.n_per_row;
    read_unit(tensor, unit, buffers.stored);
    buffers.weights.resize(static_cast<size_t>(unit.n_rows * n_per_row));
    convert_to_float(tensor.type, buffers.stored.data(), buffers.weights.data(),
                     unit.n_rows * n_per_row);
    require_finite(tensor, unit, buffers.weights.data());
    CentralSums sums;
    for (int64_t row = 0; row < unit.n_rows; ++row) {
        add(row_sums(buffers.weights.data() + row * n_per_row, n_per_row), sums);
    }
    return sums;
}

}  // namespace

std::vector<WeightStatistics> weight_statistics(const std::vector<StoredTensor>& tensors,
                                                int n_threads, const std::atomic<bool>& cancelled) {
    for (const StoredTensor& tensor : tensors) {
        if (!is_readable_source(tensor.type)) {
            fail<InvalidArgument>("tensor '", tensor.name, "' has type ",
                                  ggml_type_name(tensor.type), ", which holds no weights");
        }
    }
    const RowUnits units = cut(tensors);
    std::vector<CentralSums> sums(static_cast<size_t>(units.size()));
    WorkerGroup workers(std::max(1, n_threads), units.size(), [&] {
        auto buffers = std::make_shared<Buffers>();
        return [&, buffers](int64_t unit_number) {
            if (cancelled.load(std::memory_order_relaxed)) throw Cancelled("stopped by the caller");
            const RowUnit unit = units[unit_number];
            sums[static_cast<size_t>(unit_number)] =
                unit_sums(tensors[unit.tensor], unit, *buffers);
        };
    });
    workers.join();

    std::vector<CentralSums> totals(tensors.size());
    for (int64_t i = 0; i < units.size(); ++i) {
        add(sums[static_cast<size_t>(i)], totals[units[i].tensor]);
    }
    std::vector<WeightStatistics> result;
    result.reserve(totals.size());
    for (const CentralSums& total : totals) result.push_back(finish(total));
    return result;
}

}  // namespace apex
