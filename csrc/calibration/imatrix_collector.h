// Collects an importance matrix: sums of squared inputs of every weight, per expert where routed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "calibration/device_inputs.h"
#include "calibration/imatrix_sums.h"
#include "calibration/input_squares.h"
#include "calibration/output_input.h"
#include "model/eval_hook.h"

namespace apex {

// What is collected.
enum class ImatrixScope {
    everything,  // every weight a matrix multiplication reads, the output's included
    upstream,    // what llama-imatrix collects by default: no output, no product of under 16 rows
    blocks,      // everything but the output
};

// Inputs are squared and summed where they lie, on the host or on a GPU. The sums depend neither on
// the number of threads nor on that place: see calibration/squared_columns.h.
class ImatrixCollector : public EvalHook {
  public:
    ImatrixCollector(std::shared_ptr<ThreadPool> pool, ImatrixScope scope);

    // Graphs end where they computed this input: the output itself is not needed.
    void end_graphs_at(OutputInput end) { end_ = std::move(end); }

    // Inputs on a GPU are copied and summed on the host, to compare the two.
    void sum_on_host_only() { host_only_ = true; }

    bool wants(const ggml_tensor* node) override;
    bool observe(ggml_tensor* node) override;

    // By the name of the weight.
    const std::map<std::string, ImatrixSums>& entries() const;

    // Goes on from sums collected before. Throws InvalidArgument where they contradict themselves.
    void restore(const std::string& weight, ImatrixSums sums);

  private:
    bool in_scope(const MatmulNode& node) const;
    bool is_end(const ggml_tensor* node) const;
    const ImatrixSums* entry_of(const MatmulNode& node) const;
    void compute(const MatmulNode& node);
    void add(const MatmulNode& node, const InputSquares& squares);

    ImatrixScope scope_;
    bool host_only_ = false;
    std::shared_ptr<ThreadPool> pool_;
    InputSquaresCache inputs_;
    OutputInput end_;
    // Totals that grow on a GPU are copied when somebody asks.
    mutable DeviceInputs device_inputs_;
    mutable std::map<std::string, ImatrixSums> entries_;
};

}  // namespace apex
