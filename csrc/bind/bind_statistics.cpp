#include <future>

#include "bind/module.h"
#include "core/row_checksum.h"
#include "core/weight_statistics.h"

namespace apex::bind {
namespace {

// What a function of (tensors, n_threads, cancelled) returns; Ctrl-C has to reach a call that may
// read 65 GB.
template <typename Read>
auto interruptible(const Read& read, const std::vector<StoredTensor>& tensors, int n_threads) {
    std::atomic<bool> cancelled{false};
    auto work = std::async(std::launch::async, [&] { return read(tensors, n_threads, cancelled); });
    bool interrupted = false;
    while (true) {
        {
            const py::gil_scoped_release unlocked;
            if (work.wait_for(std::chrono::milliseconds(100)) == std::future_status::ready) break;
        }
        if (!interrupted && PyErr_CheckSignals() != 0) interrupted = cancelled = true;
    }
    if (interrupted) throw py::error_already_set();
    return work.get();
}

py::list statistics(const std::vector<StoredTensor>& tensors, int n_threads) {
    py::list result;
    for (const WeightStatistics& s : interruptible(weight_statistics, tensors, n_threads)) {
        result.append(py::make_tuple(s.n, s.mean, s.rms, s.max_abs, s.kurtosis, s.outlier_share));
    }
    return result;
}

std::vector<uint64_t> checksums(const std::vector<StoredTensor>& tensors, int n_threads) {
    return interruptible(tensor_checksums, tensors, n_threads);
}

}  // namespace

void register_statistics(py::module_& module) {
    module.def("weight_statistics", &statistics, "tensors"_a, py::kw_only(), "n_threads"_a,
               "(n, mean, rms, max_abs, kurtosis, outlier_share) for each tensor.");
    module.def("tensor_checksums", &checksums, "tensors"_a, py::kw_only(), "n_threads"_a,
               "Of each tensor's stored rows: the sum, modulo 2^64, of every row's XXH64 with the "
               "row's number as the seed.");
}

}  // namespace apex::bind
