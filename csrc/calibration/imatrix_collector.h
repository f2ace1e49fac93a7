// Collects an importance matrix: sums of squared inputs of every weight, per expert where routed.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "calibration/device_inputs.h"
#include "calibration/imatrix_totals.h"
#include "calibration/input_moments.h"
#include "calibration/input_squares.h"
#include "calibration/layer_border.h"
#include "calibration/output_input.h"
#include "calibration/output_rows.h"
#include "calibration/squares_record.h"
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

    // Graphs end behind this weight's product.
    void end_graphs_behind(std::string weight) { last_weight_ = std::move(weight); }

    bool knows_end() const { return end_.known() || !last_weight_.empty(); }

    // Graphs start, or are recorded, at borders of layers.
    void use_border(std::unique_ptr<LayerBorder> border) { border_ = std::move(border); }

    // Inputs on a GPU are copied and summed on the host, to compare the two.
    void sum_on_host_only() { host_only_ = true; }

    // Second moments too, added up where the squares are.
    void collect_moments(std::shared_ptr<InputMoments> moments) { moments_ = std::move(moments); }

    // What is seen from now on is written down there and not added to the totals; null: added. Not
    // for a collector of second moments.
    void record_into(SquaresRecord* record) { record_ = record; }

    // The inputs of the output themselves.
    void keep_output_rows(std::shared_ptr<OutputRows> rows) { output_rows_ = std::move(rows); }

    bool wants(const ggml_tensor* node) override;
    bool observe(ggml_tensor* node) override;

    ImatrixTotals& totals() { return totals_; }

    // Tokens of the graphs computed so far, but for the one in the works. From any thread.
    int64_t n_tokens_seen() const { return n_tokens_seen_; }
    // With that one; between graphs.
    int64_t n_tokens_at_end() const { return n_tokens_seen_ + n_tokens_of_graph_; }

  private:
    bool in_scope(const MatmulNode& node) const;
    void add(const MatmulNode& node, const InputSquares& squares);
    void add(const MatmulNode& node, const DeviceSlot& slot);
    bool wants_input(const ggml_tensor* node);
    bool observe_input(ggml_tensor* node);
    bool add_known(const MatmulNode& node);
    bool add_on_device(const MatmulNode& node);
    bool is_end(const ggml_tensor* node) const;
    void compute(const MatmulNode& node);
    void count_graph(const std::string& weight, const ggml_tensor* node);

    ImatrixScope scope_;
    bool host_only_ = false;
    std::shared_ptr<ThreadPool> pool_;
    InputSquaresCache inputs_;
    DeviceInputs device_inputs_;
    ImatrixTotals totals_;
    SquaresRecord* record_ = nullptr;
    uint64_t n_computed_ = 0;                  // inputs
    std::shared_ptr<InputMoments> moments_;    // null: not collected
    std::shared_ptr<OutputRows> output_rows_;  // null: not kept
    OutputInput end_;
    std::string last_weight_;
    bool is_last_seen_ = false;            // in this graph
    std::unique_ptr<LayerBorder> border_;  // null: graphs are computed from their beginning
    std::string first_weight_;             // of every graph
    int64_t n_tokens_of_graph_ = 0;
    std::atomic<int64_t> n_tokens_seen_{0};
};

}  // namespace apex
