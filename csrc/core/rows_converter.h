// Another way to quantize a tensor's rows than quantize_rows, handed to the Quantizer with its
// task.
#pragma once

#include <cstdint>
#include <vector>

#include "core/row_units.h"

namespace apex {

struct StoredTensor;

// What a converter has to tell of a finished tensor; sums in the order of rows and slices.
struct OutputErrors {
    double error = 0;       // of outputs, on the calibration's inputs: sum of (w - q) H (w - q)^T
    double ggml_error = 0;  // of the bytes that quantize_rows gives
    double signal = 0;      // sum of w H w^T
    double held_out_error = 0;  // of sampled rows, each half of the inputs judging the other's
    double held_out_ggml_error = 0;
    int64_t n_slices = 0;
    int64_t n_kept = 0;  // slices that keep quantize_rows's bytes
};

// Called by several workers, for units of one tensor in any order; each unit once.
class RowsConverter {
  public:
    virtual ~RowsConverter() = default;

    // weights: the unit's rows; result receives their bytes, which are valid for ggml.
    virtual void convert(const RowUnit& unit, const float* weights, uint8_t* result) = 0;

    // Weights of a unit, about: whole slices are prepared, and few units of a slice keep few
    // workers waiting for that.
    virtual int64_t weights_per_unit() const { return 256 * 1024; }

    // After the last unit.
    virtual OutputErrors errors() const = 0;
};

}  // namespace apex
