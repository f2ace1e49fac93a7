// The last part of a model, from the final hidden state to logits, computed apart from the rest.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "core/gguf_file.h"
#include "model/thread_pool.h"

namespace apex {

// Names llama.cpp gives the two nodes of every language model (src/models/*.cpp).
inline constexpr char kHiddenName[] = "result_norm";
inline constexpr char kLogitsName[] = "result_output";

// What a graph does between its hidden state and its logits.
struct HeadRecipe {
    struct Step {
        ggml_op op = GGML_OP_NONE;
        std::array<int32_t, GGML_MAX_OP_PARAMS / sizeof(int32_t)> params{};
        std::string weight;  // a tensor of the file; empty where the step has none
    };
    std::vector<Step> steps;  // the first one is the product with the head's weights
};

// Follows a graph back from its node of logits. Throws ModelError where it does anything but
// multiply with weights, scale, cap and add a bias.
HeadRecipe read_recipe(const ggml_tensor* logits);

// Adds the head to a graph: `weights` are the tensors of the steps, null where one has none.
ggml_tensor* build_head(ggml_context* context, const HeadRecipe& recipe,
                        const std::vector<ggml_tensor*>& weights, ggml_tensor* hidden);

// Computes with weights mapped from the model's file: nothing else of the model is in memory.
class LmHead {
  public:
    // Throws ModelError where the file lacks a weight or it does not fit.
    LmHead(const std::string& path, HeadRecipe recipe);

    struct Weight {
        ggml_type type = GGML_TYPE_F32;
        std::array<int64_t, 4> ne{1, 1, 1, 1};
        const uint8_t* data = nullptr;  // null: the step has none
    };

    int64_t n_embd() const { return weights_.front().ne[0]; }
    int64_t n_vocab() const { return weights_.front().ne[1]; }
    const std::string& path() const { return path_; }
    const HeadRecipe& recipe() const { return recipe_; }
    const std::vector<Weight>& weights() const { return weights_; }  // of the recipe's steps

    // n hidden states to n rows of logits, with the kernels a graph of llama.cpp uses.
    void compute(const float* hidden, int64_t n, float* logits, ThreadPool& pool) const;

  private:
    Weight find_weight(const std::string& name) const;

    std::string path_;
    GgufFile file_;
    HeadRecipe recipe_;
    std::vector<Weight> weights_;
};

}  // namespace apex
