// Where the logits of an evaluation come from: a model, stored hidden states, a base file.
#pragma once

#include <memory>
#include <vector>

#include "model/context.h"
#include "scoring/device_softmax.h"
#include "scoring/logit_rows.h"
#include "scoring/router_hook.h"
#include "scoring/score_step.h"

namespace apex {

class LogitsSource {
  public:
    virtual ~LogitsSource() = default;

    virtual int64_t n_vocab() const = 0;

    // Computes a step; steps come in the order of make_steps.
    virtual void compute(const Step& step) = 0;

    // Where the i-th output of the last step begins; valid until the next compute(). In the memory
    // of a GPU where device() is not -1.
    virtual const float* row(int32_t i) const = 0;
    virtual int device() const { return -1; }

    // From here on to the next compute() the rows are the host's.
    virtual void bring_to_host() {}

    // Log-probabilities of a base file instead of logits (score_rows_coded).
    virtual bool is_coded() const { return false; }

    // The experts chosen in the last step; null where nobody looked.
    virtual const RouterChoices* routes() const { return nullptr; }
};

// Tokens of all chunks, one after the other.
using ChunkTokens = std::shared_ptr<const std::vector<llama_token>>;

struct ModelSourceOptions {
    ggml_type type_k = GGML_TYPE_F16;
    ggml_type type_v = GGML_TYPE_F16;
    bool with_routes = false;
    // Each step is computed in this many parts: another batch shape, for the noise floor.
    int32_t n_parts = 1;
};

// A model's own logits, left where they were computed: on the host or on a GPU.
class ModelSource final : public LogitsSource, private EvalHook {
  public:
    ModelSource(std::shared_ptr<Model> model, std::shared_ptr<ThreadPool> pool,
                const ChunkShape& shape, ChunkTokens tokens, const ModelSourceOptions& options,
                std::shared_ptr<const StopFlag> stop);

    int64_t n_vocab() const override { return rows_.n_vocab(); }
    void compute(const Step& step) override;
    const float* row(int32_t i) const override { return rows_.row(i); }
    int device() const override { return rows_.device(); }
    void bring_to_host() override { rows_.bring_to_host(); }
    const RouterChoices* routes() const override {
        return options_.with_routes ? &routes_.choices() : nullptr;
    }

  private:
    bool wants(const ggml_tensor* node) override;
    bool observe(ggml_tensor* node) override;
    void decode(const Step& step, int32_t begin, int32_t end);
    void keep_part(const Step& step, int32_t begin, int32_t end);
    float* room_for_parts(size_t n);

    ChunkShape shape_;
    ChunkTokens tokens_;
    ModelSourceOptions options_;
    RouterHook routes_;
    Batch batch_;
    LogitRows rows_;             // of the last decode or, with parts, of the step
    std::vector<float> joined_;  // of several parts, on the host
    std::unique_ptr<DeviceRowBuffer> device_joined_;
    Context context_;
};

// The tokens of a step as a batch; position 0 becomes BOS where the vocabulary wants that.
void fill_batch(Batch& batch, const llama_vocab* vocab, const ChunkShape& shape,
                const std::vector<llama_token>& tokens, const Step& step, int32_t begin,
                int32_t end);

// Throws InvalidArgument where a model cannot be scored in chunks of such a length.
void check_scorable(const Model& model, const ChunkShape& shape);

// Options of a context that computes such steps.
ContextOptions context_options(const ChunkShape& shape, const ModelSourceOptions& source = {});

}  // namespace apex
