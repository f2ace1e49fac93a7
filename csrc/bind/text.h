// Text for people, from bytes that may be any: a path's, a token's, a damaged file's.
#pragma once

#include <string>

#include "bind/module.h"

namespace apex::bind {

// Bytes that are no UTF-8 become \xNN: a str in any case.
inline py::object readable_text(const std::string& bytes) {
    auto text = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
        bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "backslashreplace"));
    if (!text) throw py::error_already_set();
    return text;
}

}  // namespace apex::bind
