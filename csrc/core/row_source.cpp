#include "core/row_source.h"

#include <algorithm>
#include <cmath>

#include "core/checks.h"
#include "core/error.h"
#include "core/row_error.h"

namespace apex {
namespace {

// Far enough ahead that a disk of 1 GB/s is busy while the slowest reader computes.
constexpr uint64_t kReadAhead = 32u << 20;

std::string expert_text(const StoredTensor& tensor, const RowUnit& unit) {
    return tensor.rows.n_slices > 1 ? concat(", expert ", unit.slice) : "";
}

}  // namespace

size_t unit_bytes(const StoredTensor& tensor, const RowUnit& unit) {
    return static_cast<size_t>(unit.n_rows) * row_bytes(tensor.type, tensor.rows.n_per_row);
}

void read_unit(const StoredTensor& tensor, const RowUnit& unit, std::vector<uint8_t>& bytes) {
    bytes.resize(unit_bytes(tensor, unit));
    read_unit(tensor, unit, bytes.data());
}

void read_unit(const StoredTensor& tensor, const RowUnit& unit, uint8_t* bytes) {
    const uint64_t row_size = row_bytes(tensor.type, tensor.rows.n_per_row);
    const uint64_t first =
        static_cast<uint64_t>(unit.slice * tensor.rows.rows_per_slice + unit.first_row) * row_size;
    const uint64_t n_bytes = static_cast<uint64_t>(unit.n_rows) * row_size;
    const uint64_t total = static_cast<uint64_t>(tensor.rows.n_rows()) * row_size;
    const bool opens_window = first == 0 || first / kReadAhead != (first - 1) / kReadAhead ||
                              (first + n_bytes - 1) / kReadAhead != first / kReadAhead;
    if (opens_window) {
        const uint64_t ahead = std::min(kReadAhead, total - first);
        tensor.file->will_need(tensor.offset + first, static_cast<size_t>(ahead));
    }
    tensor.file->read_at(tensor.offset + first, static_cast<size_t>(n_bytes), bytes);
}

void require_finite(const StoredTensor& tensor, const RowUnit& unit, const float* values) {
    const int64_t n_per_row = tensor.rows.n_per_row;
    if (all_finite(values, unit.n_rows * n_per_row)) return;
    const float* bad = std::find_if(values, values + unit.n_rows * n_per_row,
                                    [](float value) { return !std::isfinite(value); });
    const int64_t index = bad - values;
    fail<QuantizeError>("tensor '", tensor.name, "'", expert_text(tensor, unit), ", row ",
                        unit.first_row + index / n_per_row, ", column ", index % n_per_row,
                        " holds ", *bad,
                        ", expected a finite weight; the source file is damaged "
                        "or was converted wrongly");
}

std::string describe(const StoredTensor& tensor, const RowUnit& unit) {
    return concat("tensor '", tensor.name, "'", expert_text(tensor, unit), ", rows ",
                  unit.first_row, " to ", unit.first_row + unit.n_rows - 1);
}

}  // namespace apex
