// Squares of inputs that lie on GPUs: input_squares.h for a model that computes there.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>

#include "calibration/device_squares.h"
#include "calibration/matmul_node.h"

namespace apex {

// Squares of one input, kept on a GPU.
struct DeviceSlot {
    std::string weight;  // that was seen to read it first
    int device = 0;
    DeviceInput input;  // as long as its graph runs
    DeviceSquares* squares = nullptr;
    size_t slot = 0;
    uint64_t number = 0;  // of this computation among all
    int64_t n_matrices = 0;
    int64_t n_per_row = 0;
};

class DeviceInputs {
  public:
    // The squares of this input, if it was seen since it was computed; valid until compute().
    std::optional<DeviceSlot> find(const InputIdentity& identity);

    // Squares and sums the input of a computed node. Nothing where the input (or its experts) does
    // not lie on a GPU, or is not finite: then it is the host's to add, or to name what is wrong.
    // Throws DeviceError.
    std::optional<DeviceSlot> compute(const MatmulNode& node, uint64_t number);

    // The values of this node are about to change.
    void forget(const ggml_tensor* node);

  private:
    // As many as InputSquaresCache keeps, of each GPU.
    static constexpr size_t kKept = 8;

    struct Kept {
        InputIdentity identity;
        DeviceSlot slot;
    };
    struct Gpu {
        std::unique_ptr<DeviceSquares> squares;
        std::array<Kept, kKept> kept;
        size_t next = 0;
    };

    Gpu& gpu(int device);

    std::map<int, Gpu> gpus_;
};

}  // namespace apex
