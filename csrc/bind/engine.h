// What the bindings of everything that computes with a model share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bind/module.h"
#include "llama.h"
#include "model/model.h"

namespace apex::bind {

using TokenArray = py::array_t<int32_t, py::array::c_style>;

inline std::vector<llama_token> to_tokens(const TokenArray& array) {
    return {array.data(), array.data() + array.size()};
}

inline TokenArray to_array(const std::vector<llama_token>& tokens) {
    return TokenArray(static_cast<py::ssize_t>(tokens.size()), tokens.data());
}

// auto, on or off. Throws InvalidArgument.
FlashAttention to_flash_attention(const std::string& name);

// Model's memory_use, weight_data and cache_tensors.
void register_memory(py::class_<Model, std::shared_ptr<Model>>& model);

}  // namespace apex::bind
