#include "core/device_converter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/error.h"
#include "core/quantize_rows.h"

namespace apex {
namespace {

// A number in [0, 1) that depends on the place of the rows alone, so that a run verifies the same
// rows whatever thread they fall to. The mixing function is that of splitmix64.
double lot(const RowUnit& rows) {
    uint64_t x = rows.tensor * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(rows.slice) * 1000003u +
                 static_cast<uint64_t>(rows.first_row);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return std::ldexp(static_cast<double>((x ^ (x >> 31)) >> 11), -53);
}

// n rows of a unit, counted from its first.
RowUnit part(const RowUnit& unit, int64_t first, int64_t n) {
    RowUnit rows = unit;
    rows.first_row += first;
    rows.n_rows = n;
    return rows;
}

}  // namespace

bool is_for_device(const QuantizeTask& task) {
    return !task.is_copy() && task.converter == nullptr &&
           device_can_convert(task.source.type, task.target_type, task.imatrix != nullptr);
}

std::unique_ptr<DevicePool> make_pool_for(const std::vector<QuantizeTask>& tasks,
                                          const std::vector<int64_t>& max_rows,
                                          const std::vector<int>& devices, int n_slots) {
    DeviceSlotSize size;
    std::vector<ggml_type> targets;
    for (size_t i = 0; i < tasks.size(); ++i) {
        const QuantizeTask& task = tasks[i];
        if (!is_for_device(task)) continue;
        const int64_t n_per_row = task.source.rows.n_per_row;
        const int64_t n_rows = max_rows[i];
        const auto rows = static_cast<size_t>(n_rows);
        size.stored_bytes =
            std::max<size_t>(size.stored_bytes, rows * row_bytes(task.source.type, n_per_row));
        size.result_bytes =
            std::max<size_t>(size.result_bytes, rows * row_bytes(task.target_type, n_per_row));
        size.n_per_row = std::max(size.n_per_row, n_per_row);
        size.n_rows = std::max(size.n_rows, n_rows);
        targets.push_back(task.target_type);
    }
    return make_device_pool(devices, n_slots, size, targets);
}

void DeviceConverter::convert(const QuantizeTask& task, const RowUnit& unit, RowError* errors) {
    read_unit(task.source, unit, slot_->stored());
    DeviceRows rows;
    rows.source_type = task.source.type;
    rows.target_type = task.target_type;
    rows.n_rows = unit.n_rows;
    rows.n_per_row = task.source.rows.n_per_row;
    rows.imatrix = task.slice_imatrix(unit.slice);
    slot_->start(rows);
    slot_->finish();
    for (int64_t i = 0; i < unit.n_rows; ++i) {
        errors[i] = slot_->errors()[i];
        if (slot_->leaves(i)) errors[i] = do_on_cpu(task, unit, part(unit, i, 1));
    }
    const int64_t step = std::max<int64_t>(1, kWeightsPerUnit / rows.n_per_row);
    for (int64_t i = 0; i < unit.n_rows; i += step) {
        const RowUnit some = part(unit, i, std::min(step, unit.n_rows - i));
        if (lot(some) < verify_rate_) verify(task, unit, some, errors + i);
    }
}

// Stored rows of the unit in the slot as floats.
const float* DeviceConverter::load(const QuantizeTask& task, const RowUnit& unit,
                                   const RowUnit& rows) {
    const int64_t n_per_row = task.source.rows.n_per_row;
    const int64_t n = rows.n_rows * n_per_row;
    const auto skipped = static_cast<uint64_t>(rows.first_row - unit.first_row);
    weights_.resize(static_cast<size_t>(n));
    convert_to_float(task.source.type,
                     slot_->stored() + skipped * row_bytes(task.source.type, n_per_row),
                     weights_.data(), n);
    return weights_.data();
}

RowError DeviceConverter::do_on_cpu(const QuantizeTask& task, const RowUnit& unit,
                                    const RowUnit& row) {
    const int64_t n_per_row = task.source.rows.n_per_row;
    const float* weights = load(task, unit, row);
    require_finite(task.source, row, weights);
    uint8_t* result = slot_->result() + static_cast<uint64_t>(row.first_row - unit.first_row) *
                                            row_bytes(task.target_type, n_per_row);
    try {
        quantize_rows(task.target_type, weights, result, 1, n_per_row,
                      task.slice_imatrix(row.slice));
    } catch (const QuantizeError& error) {
        fail<QuantizeError>(describe(task.source, row), ": ", error.what());
    }
    restored_.resize(static_cast<size_t>(n_per_row));
    convert_to_float(task.target_type, result, restored_.data(), n_per_row);
    return row_error(weights, restored_.data(), n_per_row);
}

void DeviceConverter::verify(const QuantizeTask& task, const RowUnit& unit, const RowUnit& rows,
                             const RowError* errors) {
    const int64_t n_per_row = task.source.rows.n_per_row;
    const uint64_t row_size = row_bytes(task.target_type, n_per_row);
    const float* weights = load(task, unit, rows);
    again_.resize(row_size * static_cast<size_t>(rows.n_rows));
    restored_.resize(weights_.size());
    quantize_rows(task.target_type, weights, again_.data(), rows.n_rows, n_per_row,
                  task.slice_imatrix(rows.slice));
    convert_to_float(task.target_type, again_.data(), restored_.data(), rows.n_rows * n_per_row);
    const uint8_t* theirs =
        slot_->result() + static_cast<uint64_t>(rows.first_row - unit.first_row) * row_size;
    for (int64_t i = 0; i < rows.n_rows; ++i) {
        const auto offset = static_cast<uint64_t>(i) * row_size;
        const RowError error =
            row_error(weights + i * n_per_row, restored_.data() + i * n_per_row, n_per_row);
        if (std::memcmp(again_.data() + offset, theirs + offset, row_size) == 0 &&
            error.squared_error == errors[i].squared_error &&
            error.squared_weights == errors[i].squared_weights) {
            continue;
        }
        fail<QuantizeError>(describe(task.source, part(rows, i, 1)), ": the GPU's ",
                            ggml_type_name(task.target_type),
                            " or its error differs from the CPU's; quantize on the CPU and "
                            "report this");
    }
    verified_rows_ += rows.n_rows;
}

}  // namespace apex
