// Reads stored rows of a tensor and, where they are weights, checks that they are finite.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/row_blocks.h"
#include "core/row_units.h"
#include "ggml.h"

namespace apex {

// Rows that lie one after the other in a file, or are taken from there in another order, or are
// computed when they are read.
struct RowRange {
    std::shared_ptr<const MappedFile> file;  // null: the rows of blocks
    uint64_t offset = 0;                     // of the first stored row in the file
    int64_t n_rows = 0;
    std::shared_ptr<const std::vector<int32_t>> order;  // row i is stored row order[i]; none: i
    std::shared_ptr<RowBlocks> blocks;
};

// A tensor in one piece, as GGUF stores it, or in several, as checkpoints store experts.
struct StoredTensor {
    std::string name;
    ggml_type type = GGML_TYPE_COUNT;
    TensorRows rows;
    std::vector<RowRange> ranges;  // all rows of the tensor, one range after the other
};

// A shape in numpy's order: slices (experts) first, the row last. Throws InvalidArgument where a
// dimension is none or the tensor has more weights than can be counted in bytes.
TensorRows rows_of_shape(const std::string& tensor, const std::vector<int64_t>& shape);

// Throws InvalidArgument unless the ranges are exactly the tensor's rows, GgufError where one ends
// behind its file.
void check_ranges(const StoredTensor& tensor);

// Stored bytes of a unit.
size_t unit_bytes(const StoredTensor& tensor, const RowUnit& unit);

// Throws InvalidArgument unless the tensor has n_rows rows from first on.
void check_rows(const StoredTensor& tensor, int64_t first, int64_t n_rows);

// n_rows rows from first on go to bytes, which has room for them.
void read_rows(const StoredTensor& tensor, int64_t first, int64_t n_rows, uint8_t* bytes);

// The stored bytes of a unit go to bytes, which has room for them; the units that follow are read
// ahead.
void read_unit(const StoredTensor& tensor, const RowUnit& unit, uint8_t* bytes);
void read_unit(const StoredTensor& tensor, const RowUnit& unit, std::vector<uint8_t>& bytes);

// Throws QuantizeError naming tensor, expert, row and column of the first NaN or Inf.
void require_finite(const StoredTensor& tensor, const RowUnit& unit, const float* values);

// "tensor 'blk.3.ffn_up_exps.weight', expert 17, rows 64 to 95"
std::string describe(const StoredTensor& tensor, const RowUnit& unit);

}  // namespace apex
