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

void read_in_order(const RowRange& range, int64_t first_row, int64_t n_rows, uint64_t row_size,
                   uint8_t* bytes) {
    const uint64_t first = static_cast<uint64_t>(first_row) * row_size;
    const uint64_t n_bytes = static_cast<uint64_t>(n_rows) * row_size;
    const uint64_t total = static_cast<uint64_t>(range.n_rows) * row_size;
    const bool opens_window = first == 0 || first / kReadAhead != (first - 1) / kReadAhead ||
                              (first + n_bytes - 1) / kReadAhead != first / kReadAhead;
    if (opens_window) {
        const uint64_t ahead = std::min(kReadAhead, total - first);
        range.file->will_need(range.offset + first, static_cast<size_t>(ahead));
    }
    range.file->read_at(range.offset + first, static_cast<size_t>(n_bytes), bytes);
}

// Stored rows that follow each other are read at once.
void read_reordered(const RowRange& range, int64_t first_row, int64_t n_rows, uint64_t row_size,
                    uint8_t* bytes) {
    const int32_t* order = range.order->data() + first_row;
    int64_t i = 0;
    while (i < n_rows) {
        int64_t end = i + 1;
        while (end < n_rows && order[end] == order[end - 1] + 1) ++end;
        const uint64_t offset = range.offset + static_cast<uint64_t>(order[i]) * row_size;
        range.file->read_at(offset, static_cast<size_t>(end - i) * row_size,
                            bytes + static_cast<uint64_t>(i) * row_size);
        i = end;
    }
}

void read_range(const RowRange& range, int64_t first_row, int64_t n_rows, uint64_t row_size,
                uint8_t* bytes) {
    if (range.blocks) {
        range.blocks->read(first_row, n_rows, bytes);
    } else if (range.order) {
        read_reordered(range, first_row, n_rows, row_size, bytes);
    } else {
        read_in_order(range, first_row, n_rows, row_size, bytes);
    }
}

// How many rows the range needs of what it reads.
int64_t check_order(const std::string& name, const RowRange& range) {
    int64_t n_stored = range.n_rows;
    if (!range.order) return n_stored;
    if (static_cast<int64_t>(range.order->size()) != range.n_rows) {
        fail<InvalidArgument>("tensor '", name, "': an order of ", range.order->size(),
                              " rows for a range of ", range.n_rows);
    }
    for (const int32_t row : *range.order) {
        if (row < 0) fail<InvalidArgument>("tensor '", name, "': no row ", row);
        n_stored = std::max<int64_t>(n_stored, row + int64_t{1});
    }
    return n_stored;
}

void check_blocks(const std::string& name, const RowRange& range, uint64_t row_size) {
    if (range.order || range.offset != 0 || range.blocks->n_rows() != range.n_rows ||
        range.blocks->row_bytes() != row_size) {
        fail<InvalidArgument>("tensor '", name, "': blocks of ", range.blocks->n_rows(),
                              " rows of ", range.blocks->row_bytes(), " bytes for ", range.n_rows,
                              " rows of ", row_size, " in their order");
    }
}

std::string expert_text(const StoredTensor& tensor, const RowUnit& unit) {
    return tensor.rows.n_slices > 1 ? concat(", expert ", unit.slice) : "";
}

}  // namespace

TensorRows rows_of_shape(const std::string& tensor, const std::vector<int64_t>& shape) {
    TensorRows rows{1, 1, 1};
    int64_t n_weights = 1;
    for (size_t i = 0; i < shape.size(); ++i) {
        if (shape[i] < 1 || shape[i] > INT64_MAX / 8 / n_weights) {
            fail<InvalidArgument>("tensor '", tensor, "': dimension ", i, " is ", shape[i]);
        }
        n_weights *= shape[i];
        const size_t from_end = shape.size() - i;
        if (from_end == 1) rows.n_per_row = shape[i];
        if (from_end == 2) rows.rows_per_slice = shape[i];
        if (from_end >= 3) rows.n_slices *= shape[i];
    }
    return rows;
}

void check_rows(const StoredTensor& tensor, int64_t first, int64_t n_rows) {
    if (first < 0 || n_rows < 0 || first > tensor.rows.n_rows() - n_rows) {
        fail<InvalidArgument>("tensor '", tensor.name, "' has ", tensor.rows.n_rows(),
                              " rows, asked for ", n_rows, " from ", first);
    }
}

size_t unit_bytes(const StoredTensor& tensor, const RowUnit& unit) {
    return static_cast<size_t>(unit.n_rows) * row_bytes(tensor.type, tensor.rows.n_per_row);
}

void read_unit(const StoredTensor& tensor, const RowUnit& unit, std::vector<uint8_t>& bytes) {
    bytes.resize(unit_bytes(tensor, unit));
    read_unit(tensor, unit, bytes.data());
}

void read_unit(const StoredTensor& tensor, const RowUnit& unit, uint8_t* bytes) {
    read_rows(tensor, unit.slice * tensor.rows.rows_per_slice + unit.first_row, unit.n_rows, bytes);
}

void read_rows(const StoredTensor& tensor, int64_t first, int64_t n_rows, uint8_t* bytes) {
    const uint64_t row_size = row_bytes(tensor.type, tensor.rows.n_per_row);
    const int64_t last = first + n_rows;
    int64_t begin = 0;  // of the range among the tensor's rows
    for (const RowRange& range : tensor.ranges) {
        if (begin >= last) return;
        const int64_t from = std::max(first, begin);
        const int64_t to = std::min(last, begin + range.n_rows);
        if (from < to) {
            uint8_t* out = bytes + static_cast<uint64_t>(from - first) * row_size;
            read_range(range, from - begin, to - from, row_size, out);
        }
        begin += range.n_rows;
    }
}

void check_ranges(const StoredTensor& tensor) {
    const uint64_t row_size = row_bytes(tensor.type, tensor.rows.n_per_row);
    if (row_size == 0) fail<InvalidArgument>("tensor '", tensor.name, "' has rows without weights");
    int64_t n_rows = 0;
    for (const RowRange& range : tensor.ranges) {
        n_rows += range.n_rows;
        if (range.blocks) {
            check_blocks(tensor.name, range, row_size);
            continue;
        }
        const int64_t n_stored = check_order(tensor.name, range);
        const uint64_t size = range.file->size();
        const uint64_t room = range.offset <= size ? (size - range.offset) / row_size : 0;
        if (range.n_rows < 0 || static_cast<uint64_t>(n_stored) > room) {
            fail<GgufError>(range.file->path(), ": tensor '", tensor.name, "' wants ", n_stored,
                            " rows of ", row_size, " bytes from byte ", range.offset,
                            ", the file has ", size, " bytes; download it again");
        }
    }
    if (n_rows != tensor.rows.n_rows()) {
        fail<InvalidArgument>("tensor '", tensor.name, "' has ", tensor.rows.n_rows(),
                              " rows, its ranges have ", n_rows);
    }
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
