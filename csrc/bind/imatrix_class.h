// The class ImatrixRun in two files: what collects, and what is read of second moments.
#pragma once

#include <memory>

#include "bind/module.h"
#include "calibration/imatrix_run.h"

namespace apex::bind {

using ImatrixRunClass = py::class_<ImatrixRun, std::shared_ptr<ImatrixRun>>;

void register_border_states(py::module_& module);
void add_moment_methods(ImatrixRunClass& run);

}  // namespace apex::bind
