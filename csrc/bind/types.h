// ggml's types cross the border as their numbers.
#pragma once

#include "bind/module.h"
#include "core/checks.h"
#include "model/cache_types.h"

namespace pybind11::detail {

// An int in Python. ValueError where neither ggml nor a cache has a type of that number.
template <>
struct type_caster<ggml_type> {
    PYBIND11_TYPE_CASTER(ggml_type, const_name("int"));

    bool load(handle source, bool convert) {
        make_caster<int64_t> number;
        if (!number.load(source, convert)) return false;
        value = apex::checked_any_type(cast_op<int64_t>(number));
        return true;
    }

    static handle cast(ggml_type type, return_value_policy, handle) {
        return PyLong_FromLong(static_cast<long>(type));
    }
};

}  // namespace pybind11::detail
