#include "moments/weight_moment.h"

#include <algorithm>

#include "core/convert_rows.h"
#include "core/worker_group.h"
#include "moments/products.h"

namespace apex {
namespace {

// Rows of the moment, a tile a unit; every worker reads all rows of the tensor for it.
class TileWorker {
  public:
    TileWorker(const StoredTensor& tensor, const float* scales, std::vector<double>& result)
        : tensor_(tensor), scales_(scales), result_(result) {}

    void operator()(int64_t tile) {
        const int64_t n = tensor_.rows.n_per_row, begin = tile * kProductTile;
        const int64_t end = std::min(begin + kProductTile, n);
        for (int64_t slice = 0; slice < tensor_.rows.n_slices; ++slice) {
            for (int64_t row = 0; row < tensor_.rows.rows_per_slice;) {
                const int64_t n_rows =
                    std::min<int64_t>(kProductRows, tensor_.rows.rows_per_slice - row);
                read(slice, row, n_rows);
                add_products(pointers_.data(), pointers_.size(), n, begin, end, result_.data());
                row += n_rows;
            }
        }
    }

  private:
    void read(int64_t slice, int64_t first, int64_t n_rows) {
        const int64_t n = tensor_.rows.n_per_row;
        RowUnit unit;
        unit.slice = slice;
        unit.first_row = first;
        unit.n_rows = n_rows;
        stored_.resize(unit_bytes(tensor_, unit));
        read_unit(tensor_, unit, stored_.data());
        values_.resize(static_cast<size_t>(n_rows * n));
        convert_to_float(tensor_.type, stored_.data(), values_.data(), n_rows * n);
        require_finite(tensor_, unit, values_.data());
        pointers_.clear();
        for (int64_t i = 0; i < n_rows; ++i) {
            float* row = values_.data() + i * n;
            for (int64_t j = 0; scales_ != nullptr && j < n; ++j) row[j] *= scales_[j];
            pointers_.push_back(row);
        }
    }

    const StoredTensor& tensor_;
    const float* scales_;
    std::vector<double>& result_;
    std::vector<uint8_t> stored_;
    std::vector<float> values_;
    std::vector<const float*> pointers_;
};

}  // namespace

std::vector<double> weight_moment(const StoredTensor& tensor, const float* scales, int n_threads) {
    const int64_t n = tensor.rows.n_per_row;
    std::vector<double> result(static_cast<size_t>(packed_size(n)));
    WorkerGroup workers(n_threads, (n + kProductTile - 1) / kProductTile,
                        [&] { return TileWorker(tensor, scales, result); });
    workers.join();
    return result;
}

}  // namespace apex
