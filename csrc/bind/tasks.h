// From a tensor's number in an open file to what the native quantizers take.
#pragma once

#include "bind/arrays.h"
#include "core/checks.h"
#include "core/gguf_file.h"
#include "core/quantize_task.h"

namespace apex::bind {

// The task without an output and a matrix; the file has to stay open. Throws IndexError,
// InvalidArgument, GgufError where the file has no data.
inline QuantizeTask task_for(const GgufFile& gguf, size_t index, uint32_t type) {
    if (index >= gguf.tensors().size()) throw py::index_error("tensor index out of range");
    const ShardTensor& tensor = gguf.tensors()[index];
    gguf.tensor_data(tensor);  // throws where the file is header-only
    QuantizeTask task;
    task.source.name = tensor.entry.name;
    task.source.file = &gguf.shard_file(tensor.shard);
    task.source.offset = gguf.file_offset(tensor);
    task.source.type = tensor.entry.type;
    task.source.rows = {tensor.entry.n_per_row(), tensor.entry.rows_per_slice(),
                        tensor.entry.n_slices()};
    if (!is_known_type(type)) fail<InvalidArgument>("ggml type number ", type, " is unknown");
    task.target_type = static_cast<ggml_type>(type);
    return task;
}

}  // namespace apex::bind
