// Squares of inputs that lie on GPUs, and the totals of the weights they meet: input_squares.h and
// the sums of imatrix_collector.h for a model that computes there.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "calibration/device_squares.h"
#include "calibration/imatrix_sums.h"
#include "calibration/matmul_node.h"

namespace apex {

class DeviceInputs {
  public:
    // Adds the squares of this input to its weight's total, if they are known since it was
    // computed.
    bool add_known(const MatmulNode& node, const ImatrixSums* before);

    // Squares and sums the input of a computed node and adds them. False where the input (or its
    // experts) does not lie on a GPU, or is not finite: then it is the host's to add, or to name
    // what is wrong. before: where the total goes on from, null: from nothing. Throws DeviceError.
    bool compute_and_add(const MatmulNode& node, const ImatrixSums* before);

    // The values of this node are about to change.
    void forget(const ggml_tensor* node);

    // Copies all totals that changed since they were last copied.
    void read_totals(std::map<std::string, ImatrixSums>& entries);

    // Ends a total here, after copying it: it goes on elsewhere.
    void drop_total(const std::string& weight, std::map<std::string, ImatrixSums>& entries);

  private:
    // As many as InputSquaresCache keeps, of each GPU.
    static constexpr size_t kKept = 8;

    struct Kept {
        InputIdentity identity;
        int64_t n_per_row = 0;
        int64_t n_matrices = 0;
    };
    struct Gpu {
        std::unique_ptr<DeviceSquares> squares;
        std::array<Kept, kKept> kept;
        size_t next = 0;
    };
    struct Total {
        int device = -1;
        size_t number = 0;
        int64_t n_per_row = 0;
        int64_t n_matrices = 0;
        int64_t n_counts = 0;
        bool changed = false;
    };

    Gpu& gpu(int device);
    void add(int device, size_t slot, const MatmulNode& node, const ImatrixSums* before);
    Total& total_of(int device, const Kept& kept, const MatmulNode& node,
                    const ImatrixSums* before);
    ImatrixSums read(const Total& total);

    std::map<int, Gpu> gpus_;
    std::map<std::string, Total> totals_;
};

}  // namespace apex
