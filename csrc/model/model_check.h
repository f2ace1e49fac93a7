// What a model file must be before llama.cpp may load it: its loader aborts on some settings.
#pragma once

#include <string>

namespace apex {

// Returns general.architecture. Throws GgufError naming the setting, what is allowed and found;
// InvalidArgument where expert_used_count (0: the file's own) is more than the model has experts.
std::string check_model_file(const std::string& path, int expert_used_count = 0);

}  // namespace apex
