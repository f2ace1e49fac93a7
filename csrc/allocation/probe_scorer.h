// A model against itself with some tensors exchanged: many candidates, one loaded model a lane.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "allocation/layer_states.h"
#include "allocation/placed_value.h"
#include "model/context.h"
#include "scoring/logits_source.h"
#include "scoring/score_step.h"
#include "scoring/softmax.h"

namespace apex {

// Values that replace the model's own, and the first layer they touch: 0 for the embeddings, the
// number of layers for what follows the last one.
struct ProbeCandidate {
    std::vector<std::shared_ptr<const TensorValue>> values;
    int32_t first_layer = 0;
};

// Scored positions, chunk after chunk, in nats.
struct ProbeScores {
    std::vector<double> kld;
    std::vector<double> nll;
    std::vector<uint8_t> is_same_top;
    std::vector<uint8_t> is_finite;
};

// What a lane computes with. Candidates take turns in its one context.
class ProbeLane : private EvalHook {
  public:
    ProbeLane(std::shared_ptr<Model> model, int32_t n_ctx, int n_threads,
              std::shared_ptr<const StopFlag> stop);

    // The reference's logits and states for a chunk.
    void compute_reference(const std::vector<llama_token>& tokens, int32_t chunk);

    // The same chunk with other values; rows() are then the candidate's.
    void compute_candidate(const std::vector<const PlacedValue*>& values, int32_t first_layer);

    const float* reference_row(int32_t i) const { return reference_.data() + i * n_vocab_; }
    const float* row(int32_t i) const { return rows_.data() + i * n_vocab_; }
    const Model& model() const { return context_.model(); }
    ThreadPool& pool() { return *pool_; }

    // Placed once for all chunks; values that no candidate of a run needs are let go.
    const PlacedValue* place(const std::shared_ptr<const TensorValue>& value);
    void keep_only(const std::vector<ProbeCandidate>& candidates);

    // Share of the graph's nodes that were computed so far.
    int64_t n_decoded() const { return n_decoded_; }

  private:
    bool wants(const ggml_tensor* node) override;
    bool observe(ggml_tensor* node) override;
    void decode(std::vector<float>& rows);

    ChunkShape shape_;
    int64_t n_vocab_;
    std::shared_ptr<ThreadPool> pool_;
    LayerStates states_;
    Batch batch_;
    std::vector<float> reference_;
    std::vector<float> rows_;
    std::vector<float>* target_ = nullptr;  // where the logits of a decode go
    const ValueSwap* swap_ = nullptr;
    std::map<const TensorValue*, std::unique_ptr<PlacedValue>> placed_;
    int64_t n_decoded_ = 0;
    Context context_;
};

class ProbeScorer {
  public:
    // One lane for each model, n_threads threads each. The models are of one file, loaded so that
    // their weights are not rearranged. Throws InvalidArgument, ModelError.
    ProbeScorer(const std::vector<std::shared_ptr<Model>>& models, int32_t n_ctx, int n_threads,
                std::shared_ptr<const StopFlag> stop);

    // Scores candidates on whole chunks of tokens. What is computed for a candidate does not depend
    // on the others nor on the number of lanes. Throws Cancelled, ModelError.
    void run(const std::vector<llama_token>& tokens, const std::vector<ProbeCandidate>& candidates);

    double progress() const;
    const std::vector<double>& reference_nll() const { return reference_nll_; }
    const std::vector<ProbeScores>& scores() const { return scores_; }

  private:
    void run_chunk(ProbeLane& lane, const std::vector<llama_token>& tokens, int32_t chunk,
                   const std::vector<ProbeCandidate>& candidates);
    void score(ProbeLane& lane, const std::vector<llama_token>& tokens, int32_t chunk,
               ProbeScores& scores);

    ChunkShape shape_;
    std::vector<std::unique_ptr<ProbeLane>> lanes_;
    std::vector<double> reference_nll_;
    std::vector<ProbeScores> scores_;
    std::atomic<int64_t> n_done_{0};
    std::atomic<int64_t> n_all_{0};
};

}  // namespace apex
