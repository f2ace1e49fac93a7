// Where a computation first goes wrong: the first layer whose output is not finite.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/model.h"

namespace apex {

// Decodes the tokens (at most a context of them at once) and looks at the hidden state that enters
// the first layer and that leaves each: llama.cpp's name of the first one with a NaN or an infinity
// ("l_out-3": after layer 3), empty where all are finite.
std::string first_non_finite(std::shared_ptr<Model> model, const std::vector<llama_token>& tokens,
                             int n_threads, std::shared_ptr<const StopFlag> stop);

}  // namespace apex
