// The only code that accepts arrays from Python: strict on the way in, owned on the way out.
#pragma once

#include "bind/module.h"
#include "core/error.h"

namespace apex::bind {

// Pass with .noconvert(): only C-contiguous float32, never a silent copy.
using FloatArray = py::array_t<float, py::array::c_style>;
using ByteArray = py::array_t<uint8_t, py::array::c_style>;

inline void require_size(const py::array& array, int64_t expected, const char* what) {
    if (array.size() != expected) {
        fail<InvalidArgument>(what, ": expected ", expected, " elements, found ", array.size());
    }
}

}  // namespace apex::bind
