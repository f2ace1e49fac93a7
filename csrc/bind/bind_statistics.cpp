#include <future>

#include "bind/module.h"
#include "core/gguf_file.h"
#include "core/weight_statistics.h"

namespace apex::bind {
namespace {

std::vector<StoredTensor> stored_tensors(const GgufFile& file, const std::vector<size_t>& indices) {
    std::vector<StoredTensor> tensors;
    for (const size_t index : indices) {
        if (index >= file.tensors().size()) throw py::index_error("tensor index out of range");
        const ShardTensor& tensor = file.tensors()[index];
        file.tensor_data(tensor);  // throws where the file is header-only
        tensors.push_back(
            {tensor.entry.name,
             &file.shard_file(tensor.shard),
             file.file_offset(tensor),
             tensor.entry.type,
             {tensor.entry.n_per_row(), tensor.entry.rows_per_slice(), tensor.entry.n_slices()}});
    }
    return tensors;
}

py::list statistics(const GgufFile& file, const std::vector<size_t>& indices, int n_threads) {
    const std::vector<StoredTensor> tensors = stored_tensors(file, indices);
    std::atomic<bool> cancelled{false};
    auto work = std::async(std::launch::async,
                           [&] { return weight_statistics(tensors, n_threads, cancelled); });
    // Ctrl-C has to reach a call that may read 65 GB.
    bool interrupted = false;
    while (true) {
        {
            const py::gil_scoped_release unlocked;
            if (work.wait_for(std::chrono::milliseconds(100)) == std::future_status::ready) break;
        }
        if (!interrupted && PyErr_CheckSignals() != 0) interrupted = cancelled = true;
    }
    if (interrupted) throw py::error_already_set();
    py::list result;
    for (const WeightStatistics& s : work.get()) {
        result.append(py::make_tuple(s.n, s.mean, s.rms, s.max_abs, s.kurtosis, s.outlier_share));
    }
    return result;
}

}  // namespace

void register_statistics(py::module_& module) {
    module.def("weight_statistics", &statistics, "file"_a, "indices"_a, py::kw_only(),
               "n_threads"_a,
               "(n, mean, rms, max_abs, kurtosis, outlier_share) for each tensor index.");
}

}  // namespace apex::bind
