// Reads stored rows of a tensor and, where they are weights, checks that they are finite.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/row_units.h"
#include "ggml.h"

namespace apex {

struct StoredTensor {
    std::string name;
    const MappedFile* file = nullptr;
    uint64_t offset = 0;  // of the tensor in the file
    ggml_type type = GGML_TYPE_COUNT;
    TensorRows rows;
};

// Stored bytes of a unit.
size_t unit_bytes(const StoredTensor& tensor, const RowUnit& unit);

// The stored bytes of a unit go to bytes, which has room for them; the units that follow are read
// ahead.
void read_unit(const StoredTensor& tensor, const RowUnit& unit, uint8_t* bytes);
void read_unit(const StoredTensor& tensor, const RowUnit& unit, std::vector<uint8_t>& bytes);

// Throws QuantizeError naming tensor, expert, row and column of the first NaN or Inf.
void require_finite(const StoredTensor& tensor, const RowUnit& unit, const float* values);

// "tensor 'blk.3.ffn_up_exps.weight', expert 17, rows 64 to 95"
std::string describe(const StoredTensor& tensor, const RowUnit& unit);

}  // namespace apex
