#include "model/finite_check.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "ggml-backend.h"
#include "model/context.h"
#include "model/vocabulary.h"

namespace apex {
namespace {

// llama.cpp's names of the residual stream (src/models/): before, between and after the layers.
constexpr std::array<const char*, 4> kWatched{"inp_embd", "l_out-", "result_norm", "result_output"};

class FiniteHook : public EvalHook {
  public:
    bool wants(const ggml_tensor* node) override {
        return first_.empty() && node->type == GGML_TYPE_F32 && ggml_is_contiguous(node) &&
               std::any_of(kWatched.begin(), kWatched.end(), [&](const char* name) {
                   return std::strncmp(node->name, name, std::strlen(name)) == 0;
               });
    }

    bool observe(ggml_tensor* node) override {
        values_.resize(static_cast<size_t>(ggml_nelements(node)));
        ggml_backend_tensor_get(node, values_.data(), 0, values_.size() * sizeof(float));
        const bool finite = std::all_of(values_.begin(), values_.end(),
                                        [](float value) { return std::isfinite(value); });
        if (first_.empty() && !finite) first_ = node->name;
        return true;
    }

    const std::string& first() const { return first_; }

  private:
    std::vector<float> values_;
    std::string first_;
};

}  // namespace

std::string first_non_finite(std::shared_ptr<Model> model, const std::vector<llama_token>& tokens,
                             int n_threads, std::shared_ptr<const StopFlag> stop) {
    if (tokens.empty()) fail<InvalidArgument>("tokens: expected at least one");
    check_tokens(model->vocab(), tokens.data(), tokens.size());
    ContextOptions options;
    options.n_ctx = options.n_batch = options.n_ubatch = static_cast<uint32_t>(tokens.size());
    FiniteHook hook;
    Context context(std::move(model), std::make_shared<ThreadPool>(n_threads), options, &hook,
                    std::move(stop));
    Batch batch;
    for (size_t i = 0; i < tokens.size(); ++i) {
        batch.add(tokens[i], static_cast<llama_pos>(i), 0, true);
    }
    context.decode(batch);
    return hook.first();
}

}  // namespace apex
