// Quantizes rows so that their output error under a second moment is small: error feedback into
// ggml's own formats.
#pragma once

#include <cstdint>
#include <vector>

#include "moments/basis.h"
#include "moments/grid_format.h"
#include "moments/scalar_format.h"

namespace apex {

// How hard to search; measured in bench/results/second_moment.md.
struct FeedbackEffort {
    int scale_radius = 2;     // integer scales (and minima) tried around ggml's in the first pass
    int refine_radius = 1;    // and around the present ones later
    int max_passes = 6;       // of coordinate descent, at most
    int max_grid_passes = 3;  // for grids: three more take as long again for half a percent
    // Whole searches, each from the scales that the one before ended with: of types with levels,
    // and of grids. Rows that are too wide to be searched again have one.
    int max_rounds = 3;
    int max_grid_rounds = 2;
    int max_round_columns = 1024;

    int rounds(ggml_type type, int64_t n) const;
};

namespace feedback {

// What rows are quantized under.
struct Search {
    const FeedbackBasis* basis;
    const BlockBasis* blocks;  // of the format's block size
    const BlockBasis* groups;  // of 8 columns, for grids; else null
    FeedbackEffort effort;
};

// n_rows rows of basis->n weights. start holds them as ggml's quantizer wrote them; result receives
// as many bytes, and costs of each row (w - q) H (w - q)^T under the basis, which is that of the
// bytes up to float rounding.
using QuantizeScalarRows = void (*)(const ScalarFormat& format, const Search& search,
                                    const float* weights, int64_t n_rows, const uint8_t* start,
                                    uint8_t* result, float* costs);

using QuantizeGridRows = void (*)(const GridFormat& format, const Search& search,
                                  const float* weights, int64_t n_rows, const uint8_t* start,
                                  uint8_t* result, float* costs);

// For the best instruction set of this CPU; the bytes are the same for all of them.
QuantizeScalarRows scalar_rows();
QuantizeGridRows grid_rows();

}  // namespace feedback

// Is there a search for this type?
bool has_feedback(ggml_type type);

// What rows are quantized under, with what its type's search needs.
class FeedbackRows {
  public:
    // The basis has to outlive it. n is a multiple of the type's block.
    FeedbackRows(ggml_type type, const FeedbackBasis& basis, const FeedbackEffort& effort);

    // The best of each row's rounds under the basis' moment, the first of equals.
    void quantize(const float* weights, int64_t n_rows, const uint8_t* start, uint8_t* result,
                  float* costs) const;

  private:
    void search(const float* weights, int64_t n_rows, const uint8_t* start, uint8_t* result,
                float* costs) const;
    std::vector<double> errors(const float* weights, int64_t n_rows, const uint8_t* bytes) const;

    ggml_type type_;
    const ScalarFormat* scalar_;
    const GridFormat* grid_;
    const FeedbackBasis& basis_;
    FeedbackEffort effort_;
    BlockBasis blocks_, groups_;
};

}  // namespace apex
