// llama_model_quantize as upstream wrote it: the oracle our own files are compared with.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace apex {

struct UpstreamQuantizeOptions {
    int ftype = 0;  // llama_ftype
    int n_threads = 1;
    bool pure = false;
    bool allow_requantize = false;
    std::vector<std::pair<std::string, int>> tensor_types;  // regex, ggml type number
    std::map<std::string, std::vector<float>> imatrix;      // tensor name, mean activations
};

// For tests and benchmarks only: no progress, no resume, and bad input may end the process.
void upstream_quantize(const std::string& source, const std::string& target,
                       const UpstreamQuantizeOptions& options);

}  // namespace apex
