// The weights of a loaded model: where they are, and where others in their place should be.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "ggml-backend.h"
#include "model/model.h"
#include "model/weight_stream.h"

namespace apex {

// The model's tensors of this name: two where embeddings and output are tied. Throws ModelError
// where there is none.
std::vector<ggml_tensor*> find_weights(const Model& model, const std::string& name);

// The experts of layers: by layer, and within one as graphs use them, what goes up before what goes
// down. Throws ModelError where there are none.
std::vector<StreamedWeight> expert_weights(const Model& model, const std::vector<int>& layers);

// Name in the file and bytes of all weights; tied embeddings come twice.
std::vector<std::pair<std::string, size_t>> weight_bytes(const Model& model);

// What the model's tensors of this name hold: find_weights. Throws ModelError where ggml rearranged
// one for this CPU.
std::vector<std::vector<char>> read_weights(const Model& model, const std::string& name);

// Which memory a weight would get that llama.cpp loads in the place of `like`: the same GPU's, or
// the host's, rearranged for the products of this CPU where ggml has faster code for that (asked as
// src/llama-model-loader.cpp, weight_buft_supported, asks). weight has no memory yet.
ggml_backend_buffer_type_t memory_for_weight(ggml_tensor* weight, const ggml_tensor* like,
                                             const std::string& name);

}  // namespace apex
