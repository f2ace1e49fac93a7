// Values in the memory a model computes from, and a model that computes with them for a while.
#pragma once

#include <memory>
#include <vector>

#include "allocation/tensor_value.h"
#include "ggml-cpp.h"
#include "model/model.h"

namespace apex {

// One value where the model's own tensor lies: on the host (as ggml rearranges it for this CPU
// where that is faster) or in the memory of the same GPU.
class PlacedValue {
  public:
    // Throws ModelError where the model has no such tensor, its shape differs, or memory is short.
    PlacedValue(const Model& model, std::shared_ptr<const TensorValue> value);

    const TensorValue& value() const { return *value_; }
    const ggml_tensor* tensor() const { return tensor_; }

    // The model's tensors of this name: two where embeddings and output are tied.
    const std::vector<ggml_tensor*>& targets() const { return targets_; }

  private:
    std::shared_ptr<const TensorValue> value_;
    std::vector<ggml_tensor*> targets_;
    ggml_context_ptr context_;
    ggml_backend_buffer_ptr buffer_;
    ggml_tensor* tensor_ = nullptr;
};

// As long as it lives, the model's tensors are those values: type, strides and data are exchanged,
// not a weight is copied. Nothing may compute with the model while it is made or destroyed, and
// what is computed meanwhile must not hold views of the weights (PlacedValue's owner checks that).
class ValueSwap {
  public:
    explicit ValueSwap(const std::vector<const PlacedValue*>& values);
    ~ValueSwap();
    ValueSwap(const ValueSwap&) = delete;
    ValueSwap& operator=(const ValueSwap&) = delete;

    bool changes(const ggml_tensor* tensor) const;

  private:
    struct Saved {
        ggml_tensor* target;
        ggml_tensor was;
    };
    std::vector<Saved> saved_;
};

}  // namespace apex
