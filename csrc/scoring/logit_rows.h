// Rows of logits where they were computed: on the host or on a GPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ggml.h"

namespace apex {

class LogitRows {
  public:
    explicit LogitRows(int64_t n_vocab) : n_vocab_(n_vocab) {}

    // Those of a node computed just now, valid until its graph is computed again. Throws ModelError
    // naming the model where they are no rows of so many floats.
    void take(const ggml_tensor* node, const std::string& model);
    // n rows that lie on a GPU, or on the host (-1), as long as they are asked for.
    void set(const float* rows, int64_t n, int device);
    void clear() { n_ = 0; }

    void bring_to_host();

    int64_t n_vocab() const { return n_vocab_; }
    int64_t n() const { return n_; }
    int device() const { return device_; }
    const float* row(int64_t i) const { return rows_ + i * n_vocab_; }

  private:
    int64_t n_vocab_;
    int64_t n_ = 0;
    int device_ = -1;
    const float* rows_ = nullptr;
    std::vector<float> copy_;  // from a device
};

}  // namespace apex
