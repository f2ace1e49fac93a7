#include <future>

#include "bind/module.h"
#include "core/weight_statistics.h"

namespace apex::bind {
namespace {

py::list statistics(const std::vector<StoredTensor>& tensors, int n_threads) {
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
    module.def("weight_statistics", &statistics, "tensors"_a, py::kw_only(), "n_threads"_a,
               "(n, mean, rms, max_abs, kurtosis, outlier_share) for each tensor.");
}

}  // namespace apex::bind
