// A tensor's weights in another type, and how far they are from the source's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/gguf_file.h"
#include "core/rows_converter.h"
#include "ggml.h"
#include "model/stop_flag.h"

namespace apex {

// Of one slice (expert) of a tensor, columns weighted by their importance.
struct SliceError {
    double squared_error = 0;    // sum of importance * (original - restored)^2
    double squared_weights = 0;  // sum of importance * original^2
};

struct TensorValue {
    std::string name;
    ggml_type type = GGML_TYPE_COUNT;
    std::vector<int64_t> ne;  // ggml's order
    std::vector<uint8_t> bytes;
    std::vector<SliceError> errors;  // one for each slice
};

struct ValueRequest {
    size_t tensor = 0;  // index in the file
    ggml_type type = GGML_TYPE_COUNT;
    const float* imatrix = nullptr;    // n_per_row values for each slice, or null
    const uint8_t* encoded = nullptr;  // the result, where somebody else quantized; or null
    int64_t row_step = 1;  // every so-manieth row of each slice only: for its errors, not for use
    RowsConverter* converter = nullptr;  // quantizes in place of quantize_rows, or null
};

struct ValueOptions {
    int n_threads = 1;
    std::vector<int> devices{};  // GPUs that quantize what they have a kernel for (core/device.h)
    const StopFlag* stop = nullptr;
};

// Quantizes tensors of a file in memory, with the bytes quantize() would write. The result does not
// depend on threads or devices. Throws InvalidArgument, ImatrixError and QuantizeError as
// quantizing into a file does, DeviceError where a GPU has no room, Cancelled when stopped.
std::vector<std::shared_ptr<const TensorValue>> make_values(const GgufFile& file,
                                                            const std::vector<ValueRequest>& wanted,
                                                            const ValueOptions& options);

}  // namespace apex
