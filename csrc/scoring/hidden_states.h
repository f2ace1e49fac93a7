// A reference's final hidden states: what is needed to compute its logits again without the model,
// n_embd floats a scored position instead of n_vocab.
#pragma once

#include <map>
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

// All that a second pass needs of the first one.
class HiddenStates {
  public:
    HiddenStates(const Model& model, const ChunkShape& shape, int32_t n_chunks,
                 const std::string& folder);

    const ChunkShape& shape() const { return shape_; }
    const std::string& path() const { return path_; }
    RowStore& rows() { return rows_; }
    const RowStore& rows() const { return rows_; }

    void keep_recipe(const HeadRecipe& recipe);
    const HeadRecipe& recipe() const { return recipe_; }
    void keep_routes(const Step& step, RouterChoices routes);
    const RouterChoices& routes(const Step& step) const;

  private:
    std::string path_;
    ChunkShape shape_;
    RowStore rows_;
    std::mutex mutex_;
    HeadRecipe recipe_;
    std::map<std::pair<int32_t, int32_t>, RouterChoices> routes_;  // by first chunk and position
};

// The first pass: computes a model but for its head, whose recipe is read from its first graph.
class HiddenRecorder final : public LogitsSource, private EvalHook {
  public:
    HiddenRecorder(std::shared_ptr<Model> model, std::shared_ptr<ThreadPool> pool,
                   std::shared_ptr<HiddenStates> states, ChunkTokens tokens, bool with_routes,
                   std::shared_ptr<const StopFlag> stop);

    int64_t n_vocab() const override { return context_.model().n_vocab(); }
    void compute(const Step& step) override;
    const float* row(int32_t) const override { return nullptr; }

  private:
    bool wants(const ggml_tensor* node) override;
    bool observe(ggml_tensor* node) override;
    void keep_rows(const ggml_tensor* node);

    std::shared_ptr<HiddenStates> states_;
    ChunkTokens tokens_;
    bool with_routes_;
    bool has_recipe_ = false;
    RouterHook routes_;
    Batch batch_;
    Step step_;
    Context context_;
};

// The second pass: the reference's logits again.
class HiddenSource final : public LogitsSource {
  public:
    // device: the GPU that computes the head; null: the pool's threads do.
    HiddenSource(std::shared_ptr<const HiddenStates> states, std::shared_ptr<ThreadPool> pool,
                 bool with_routes, ggml_backend_dev_t device = nullptr);

    int64_t n_vocab() const override { return head_.n_vocab(); }
    void compute(const Step& step) override;
    const float* row(int32_t i) const override { return rows_ + int64_t{i} * n_vocab(); }
    int device() const override { return device_; }
    void bring_to_host() override;
    const RouterChoices* routes() const override { return routes_; }

  private:
    std::shared_ptr<const HiddenStates> states_;
    std::shared_ptr<ThreadPool> pool_;
    LmHead head_;
    std::unique_ptr<DeviceHead> device_head_;
    bool with_routes_;
    std::vector<float> hidden_;
    std::vector<float> logits_;    // on the host
    const float* rows_ = nullptr;  // of the last step
    int device_ = -1;              // they lie on
    int64_t n_rows_ = 0;
    const RouterChoices* routes_ = nullptr;
};

}  // namespace apex
