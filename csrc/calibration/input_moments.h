// Second moments of the inputs of a model's weights, collected beside an importance matrix.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "calibration/device_inputs.h"
#include "calibration/device_moments.h"
#include "calibration/input_squares.h"
#include "calibration/matmul_node.h"
#include "model/thread_pool.h"

namespace apex {

// X^T X of an input, for each matrix of the weights that read it (expert, where routed): the lower
// triangle, see moments/products.h. Every second group of chunks is the part, the others are the
// rest: what one half suggests can be judged on the other.
struct InputMoment {
    int64_t n_per_row = 0;
    std::vector<double> part;  // matrices x packed_size(n_per_row); empty: zeros, or on a GPU
    std::vector<double> rest;
    std::vector<int64_t> counts;  // rows of each matrix, of both
    std::vector<int64_t> part_counts;

    int64_t n_matrices() const { return static_cast<int64_t>(counts.size()); }
    size_t n_sums() const;
};

// An input as a graph shows it before anything is computed.
struct KnownInput {
    std::vector<std::string> weights;  // that read it, in the graph's order
    int64_t n_per_row = 0;
    int64_t n_matrices = 0;
};
std::vector<KnownInput> inputs_of(ggml_cgraph* graph);

// Which of these weights the graph reads last; empty: none, or the output, whose product never is
// computed.
std::string last_of(ggml_cgraph* graph, const std::set<std::string>& weights);

// An input's sums grow on the host or, where they fit, on the GPU that computes the input; they
// have the same bits, and go over when that changes.
class InputMoments {
  public:
    // Of these weights only; none: of all.
    explicit InputMoments(std::set<std::string> weights) : wanted_(std::move(weights)) {}

    bool wants(const std::string& weight) const {
        return wanted_.empty() || wanted_.count(weight) != 0;
    }
    const std::set<std::string>& wanted() const { return wanted_; }

    // What follows belongs to the part, or not.
    void set_part(bool in_part) { in_part_ = in_part; }

    // The input of a weight that was computed just now: pointers to its rows, sorted by matrix, and
    // where each matrix's begin. The diagonal is taken from the squares.
    void add(const std::string& weight, const InputSquares& squares, const SortedRows& rows,
             ThreadPool& pool);

    // Is there room for the moment of this node's input on the GPU it lies on? What is found the
    // first time stays.
    bool fits_device(const MatmulNode& node);
    // The input of a weight whose squares were computed there just now.
    void add_on_device(const DeviceSlot& slot);

    // Another weight reads the input that this one was seen to read. False where that one's moment
    // was not wanted: the weight has to be added itself.
    bool share(const std::string& weight, const std::string& first);

    // By the name of the first weight that reads it, and that name for every weight. What grew on a
    // GPU is copied; valid until the next call of any other function.
    const std::map<std::string, InputMoment>& read();
    const std::map<std::string, std::string>& inputs() const { return input_of_; }

    // The same of one input without its sums; what both halves give together and the part are
    // rounded to floats: n_sums() each. Its sums are gone then. Throws ModelError where one exceeds
    // what a float holds.
    const InputMoment& shape(const std::string& input) const { return moments_.at(input); }
    void take(const std::string& input, float* total, float* part, ThreadPool& pool);

    // Goes on from what was collected before.
    void restore(const std::string& input, InputMoment moment);
    void restore_share(const std::string& weight, const std::string& input);

  private:
    // A moment whose sums lie on a GPU.
    struct OnDevice {
        DeviceMoments* moments = nullptr;
        size_t number = 0;
        bool changed = false;  // since they were copied to the host
    };

    InputMoment& moment_for(const std::string& input, int64_t n_per_row, int64_t n_matrices);
    void copy_to_host(InputMoment& moment, OnDevice& on_device);
    void bring_to_host(const std::string& input);

    std::set<std::string> wanted_;
    bool in_part_ = false;
    std::map<std::string, InputMoment> moments_;
    std::map<std::string, std::string> input_of_;
    std::map<int, std::unique_ptr<DeviceMoments>> devices_;
    std::map<std::string, OnDevice> on_device_;
    std::set<std::string> too_large_;  // for their GPU
    size_t next_number_ = 0;
};

}  // namespace apex
