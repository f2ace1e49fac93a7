// What every binding file includes first: pybind11's setup and the list of parts.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace apex::bind {

namespace py = pybind11;
using namespace pybind11::literals;

void register_errors(py::module_& module);
void register_types(py::module_& module);
void register_cache(py::module_& module);
void register_gguf(py::module_& module);
void register_rows(py::module_& module);
void register_quantize(py::module_& module);
void register_statistics(py::module_& module);
void register_stored_tensor(py::module_& module);
void register_model(py::module_& module);
void register_traits(py::module_& module);
void register_engine(py::module_& module);
void register_choice(py::module_& module);
void register_score(py::module_& module);
void register_softmax(py::module_& module);
void register_score_statistics(py::module_& module);
void register_hidden(py::module_& module);
void register_speed(py::module_& module);
void register_imatrix(py::module_& module);
void register_moments(py::module_& module);
void register_feedback(py::module_& module);

}  // namespace apex::bind
