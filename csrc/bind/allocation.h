// Exchanged weights, for module.cpp.
#pragma once

#include "bind/module.h"

namespace apex::bind {

void register_allocation(py::module_& module);

}  // namespace apex::bind
