// Squares of inputs written down in the order in which they were seen, to be added up elsewhere.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "calibration/device_inputs.h"
#include "calibration/imatrix_totals.h"
#include "calibration/input_squares.h"

namespace apex {

// What one computation would add to totals, addition by addition: replayed in the text's order, the
// records of several computations give the bits of one that adds as it goes, whoever made them.
// Memory is kept when a record is cleared: the next group's squares have the same shapes.
class SquaresRecord {
  public:
    // Squares that a weight reads; those of a GPU are on their way until finish(). `number` is the
    // computation's own for these squares: weights that share an input share its squares here.
    void add(const MatmulNode& node, const InputSquares& squares);
    void add(const MatmulNode& node, const DeviceSlot& slot);

    // Waits for what GPUs still write. Throws DeviceError.
    void finish();

    // All of it, in order. Throws what ImatrixTotals::add throws.
    void add_to(ImatrixTotals& totals) const;

    void clear();

    size_t n_inputs() const { return n_used_; }
    size_t n_bytes() const;

  private:
    struct Input {
        uint64_t number = 0;
        int64_t n_matrices = 0;
        int64_t n_per_row = 0;
        std::shared_ptr<double> memory;  // sums, then counts
        size_t capacity = 0;             // doubles
        bool is_pinned = false;
        std::vector<WeightReader> readers;

        double* sums() const { return memory.get(); }
        int64_t* counts() const;
        SquaresView squares() const { return {n_matrices, n_per_row, sums(), counts()}; }
    };

    // The input of this number, and whether it is new: then its squares are to be filled in.
    std::pair<Input*, bool> input_for(const MatmulNode& node, uint64_t number, int64_t n_matrices,
                                      int64_t n_per_row, bool pinned);

    std::vector<Input> inputs_;  // the first n_used_ of them
    size_t n_used_ = 0;
    std::set<DeviceSquares*> writing_;
};

}  // namespace apex
