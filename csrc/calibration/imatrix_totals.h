// What is collected of all weights, wherever it grows: on the host or on a GPU.
#pragma once

#include <map>
#include <string>

#include "calibration/device_inputs.h"
#include "calibration/imatrix_sums.h"
#include "model/thread_pool.h"

namespace apex {

// A weight whose input was squared.
struct WeightReader {
    std::string name;
    bool is_routed = false;
};

// Squares of one input, wherever they were added up: n_matrices x n_per_row sums, of those matrices
// with a count only, and n_matrices counts.
struct SquaresView {
    int64_t n_matrices;
    int64_t n_per_row;
    const double* sums;
    const int64_t* counts;
};

// The one owner of the totals. A weight's total lies where its input was last added up, and moves
// when that changes: a layer may be computed here now and there then.
class ImatrixTotals {
  public:
    explicit ImatrixTotals(ThreadPool& pool) : pool_(pool) {}

    // Adds squares of the weight's input. Throws ModelError where their shape is not that of the
    // total, or a count passes 2^53; DeviceError.
    void add(const WeightReader& reader, const SquaresView& squares);
    void add(const WeightReader& reader, const DeviceSlot& slot);

    // Goes on from sums collected before. Throws InvalidArgument where they contradict themselves.
    void restore(const std::string& weight, ImatrixSums sums);

    // All of them, those that grew on a GPU copied; by the name of the weight, valid until the next
    // call of any other function. Throws ModelError where a count passes 2^53, DeviceError.
    const std::map<std::string, ImatrixSums>& read();

  private:
    // A total that lies on a GPU.
    struct OnDevice {
        DeviceSquares* squares = nullptr;
        size_t number = 0;
        bool changed = false;  // since it was copied to the host
    };

    void copy_to_host(const std::string& weight, OnDevice& total);
    void bring_to_host(const std::string& weight);
    OnDevice& bring_to_device(const std::string& weight, DeviceSquares& squares);
    ImatrixSums& begin(const WeightReader& reader, int64_t n_matrices, int64_t n_per_row);

    ThreadPool& pool_;
    std::map<std::string, ImatrixSums> on_host_;  // of every weight; older where it is on a GPU too
    std::map<std::string, OnDevice> on_device_;
};

}  // namespace apex
