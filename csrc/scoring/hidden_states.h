// A reference's final hidden states: what is needed to compute its logits again without the model,
// n_embd floats a scored position instead of n_vocab.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "model/device_head.h"
#include "model/lm_head.h"
#include "scoring/logits_source.h"

namespace apex {

// Memory for rows of floats: the system's or, where a folder is given, a file in it that has no
// name and vanishes with the process.
class RowStore {
  public:
    // Throws ModelError or OutputError where there is no room.
    RowStore(int64_t n_rows, int64_t n_per_row, const std::string& folder);
    ~RowStore();
    RowStore(const RowStore&) = delete;
    RowStore& operator=(const RowStore&) = delete;

    float* row(int64_t i) { return data_ + i * n_per_row_; }
    const float* row(int64_t i) const { return data_ + i * n_per_row_; }
    int64_t n_per_row() const { return n_per_row_; }

  private:
    int64_t n_per_row_;
    size_t size_;
    float* data_ = nullptr;
};

// All that a second pass needs of the first one. Its steps may be of another shape, as long as no
// step has positions of two of the first pass'.
class HiddenStates {
  public:
    HiddenStates(const Model& model, const ChunkShape& shape, int32_t n_chunks,
                 const std::string& folder);

    const ChunkShape& shape() const { return shape_; }
    const std::string& path() const { return path_; }
    ggml_backend_dev_t gpu() const { return gpu_; }  // of the first pass; null: none
    RowStore& rows() { return rows_; }
    const RowStore& rows() const { return rows_; }

    // Maps the head's weights: the file may go once the first graph was computed.
    void keep_head(const HeadRecipe& recipe);
    // Throws InvalidArgument where no pass has run.
    const LmHead& head() const;
    void keep_routes(const Step& step, const RouterChoices& routes);
    RouterChoices routes(const Step& step) const;

  private:
    // The choices of one chunk in one step of the first pass.
    struct ChunkRoutes {
        Step step;
        RouterChoices choices;
    };

    std::string path_;
    ChunkShape shape_;
    ggml_backend_dev_t gpu_;
    RowStore rows_;
    std::mutex mutex_;
    std::unique_ptr<const LmHead> head_;
    // By chunk and first position.
    std::map<std::pair<int32_t, int32_t>, ChunkRoutes> routes_;
};

// The first pass: computes a model but for its head, whose recipe is read from its first graph;
// with_logits: the head too, so that something can be compared with it meanwhile.
class HiddenRecorder final : public LogitsSource, private EvalHook {
  public:
    HiddenRecorder(std::shared_ptr<Model> model, std::shared_ptr<ThreadPool> pool,
                   std::shared_ptr<HiddenStates> states, ChunkTokens tokens,
                   const ModelSourceOptions& options, bool with_logits,
                   std::shared_ptr<const StopFlag> stop);

    int64_t n_vocab() const override { return rows_.n_vocab(); }
    void compute(const Step& step) override;
    const float* row(int32_t i) const override { return rows_.row(i); }
    int device() const override { return rows_.device(); }
    void bring_to_host() override { rows_.bring_to_host(); }
    const RouterChoices* routes() const override {
        return with_routes_ ? &routes_.choices() : nullptr;
    }

  private:
    bool wants(const ggml_tensor* node) override;
    bool observe(ggml_tensor* node) override;
    void keep_rows(const ggml_tensor* node);

    std::shared_ptr<HiddenStates> states_;
    ChunkTokens tokens_;
    bool with_routes_;
    bool with_logits_;
    bool has_recipe_ = false;
    LogitRows rows_;
    RouterHook routes_;
    Batch batch_;
    Step step_;
    Context context_;
};

// The second pass: the model's logits again, of steps of any shape.
class HiddenSource final : public LogitsSource {
  public:
    // device: the GPU that computes the head; null: the pool's threads do.
    HiddenSource(std::shared_ptr<const HiddenStates> states, std::shared_ptr<ThreadPool> pool,
                 bool with_routes, ggml_backend_dev_t device = nullptr);

    int64_t n_vocab() const override { return states_->head().n_vocab(); }
    void compute(const Step& step) override;
    const float* row(int32_t i) const override { return rows_.row(i); }
    int device() const override { return rows_.device(); }
    void bring_to_host() override { rows_.bring_to_host(); }
    const RouterChoices* routes() const override { return with_routes_ ? &routes_ : nullptr; }

  private:
    std::shared_ptr<const HiddenStates> states_;
    std::shared_ptr<ThreadPool> pool_;
    std::unique_ptr<DeviceHead> device_head_;
    bool with_routes_;
    std::vector<float> hidden_;
    std::vector<float> logits_;  // on the host
    LogitRows rows_;             // of the last step
    RouterChoices routes_;
};

}  // namespace apex
