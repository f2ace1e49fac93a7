// Collects an importance matrix: sums of squared inputs of every weight, per expert where routed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/eval_hook.h"
#include "model/input_squares.h"
#include "model/output_input.h"

namespace apex {

struct ImatrixSums {
    int64_t n_per_row = 0;
    std::vector<double> sums;     // matrices of the weight x n_per_row
    std::vector<int64_t> counts;  // tokens of each expert; one number where nothing is routed
};

// What is collected.
enum class ImatrixScope {
    everything,  // every weight a matrix multiplication reads, the output's included
    upstream,    // what llama-imatrix collects by default: no output, no product of under 16 rows
    blocks,      // everything but the output
};

// The sums do not depend on the number of threads: see core/squared_columns.h.
class ImatrixCollector : public EvalHook {
  public:
    ImatrixCollector(std::shared_ptr<ThreadPool> pool, ImatrixScope scope);

    // Graphs end where they computed this input: the output itself is not needed.
    void end_graphs_at(OutputInput end) { end_ = std::move(end); }

    bool wants(const ggml_tensor* node) override;
    bool observe(ggml_tensor* node) override;

    // By the name of the weight.
    const std::map<std::string, ImatrixSums>& entries() const { return entries_; }

    // Goes on from sums collected before. Throws InvalidArgument where they contradict themselves.
    void restore(const std::string& weight, ImatrixSums sums);

  private:
    bool in_scope(const MatmulNode& node) const;
    bool is_end(const ggml_tensor* node) const;
    void add(const MatmulNode& node, const InputSquares& squares);

    ImatrixScope scope_;
    std::shared_ptr<ThreadPool> pool_;
    InputSquaresCache inputs_;
    OutputInput end_;
    std::map<std::string, ImatrixSums> entries_;
};

}  // namespace apex
