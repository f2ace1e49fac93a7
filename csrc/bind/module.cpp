#include "bind/module.h"

#include "bind/allocation.h"
#include "bind/text.h"

#include "core/error.h"
#include "core/log.h"
#include "model/bf16_matmul.h"
#include "model/model.h"
#include "model/own_products.h"
#include "model/panel_matmul.h"

namespace apex::bind {
namespace {

// The classes of apex_native.errors, looked up once; a C++ error is raised as its namesake.
struct ErrorClasses {
    py::object gguf, imatrix, quantize, model, data, output, device, cancelled, base;
};

const ErrorClasses& error_classes() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<ErrorClasses> storage;
    return storage
        .call_once_and_store_result([] {
            const py::module_ errors = py::module_::import("apex_native.errors");
            return ErrorClasses{errors.attr("GgufError"),     errors.attr("ImatrixError"),
                                errors.attr("QuantizeError"), errors.attr("ModelError"),
                                errors.attr("DataError"),     errors.attr("OutputError"),
                                errors.attr("DeviceError"),   errors.attr("Cancelled"),
                                errors.attr("ApexError")};
        })
        .get_stored();
}

// A message may quote a path, and a path may hold any bytes.
void set_error(const py::object& error_class, const Error& error) {
    PyErr_SetObject(error_class.ptr(), readable_text(error.what()).ptr());
}

void translate(std::exception_ptr pointer) {
    try {
        if (pointer) std::rethrow_exception(pointer);
    } catch (const GgufError& error) {
        set_error(error_classes().gguf, error);
    } catch (const ImatrixError& error) {
        set_error(error_classes().imatrix, error);
    } catch (const QuantizeError& error) {
        set_error(error_classes().quantize, error);
    } catch (const ModelError& error) {
        set_error(error_classes().model, error);
    } catch (const DataError& error) {
        set_error(error_classes().data, error);
    } catch (const OutputError& error) {
        set_error(error_classes().output, error);
    } catch (const DeviceError& error) {
        set_error(error_classes().device, error);
    } catch (const Cancelled& error) {
        set_error(error_classes().cancelled, error);
    } catch (const Error& error) {
        set_error(error_classes().base, error);
    }
}

py::dict build_info() {
    py::dict info;
    info["version"] = APEX_VERSION;
    info["llama_cpp_commit"] = APEX_LLAMA_CPP_COMMIT;
    info["cuda"] = static_cast<bool>(APEX_CUDA_BUILD);
#if defined(__VERSION__)
    info["compiler"] = __VERSION__;
#endif
    return info;
}

py::list drain_log_lines() {
    py::list lines;
    for (const LogLine& line : drain_log()) {
        lines.append(py::make_tuple(line.level, readable_text(line.text)));
    }
    return lines;
}

}  // namespace

void register_errors(py::module_&) {
    py::register_local_exception_translator(translate);
}

}  // namespace apex::bind

PYBIND11_MODULE(_core, module) {
    using namespace apex::bind;
    module.doc() = "The native core of apex_native. Private: use the package's functions.";
    register_errors(module);
    register_types(module);
    register_cache(module);
    register_gguf(module);
    register_rows(module);
    register_stored_tensor(module);
    register_quantize(module);
    register_moments(module);
    register_feedback(module);
    register_statistics(module);
    register_model(module);
    register_engine(module);
    register_traits(module);
    register_choice(module);
    register_hidden(module);
    register_score(module);
    register_softmax(module);
    register_score_statistics(module);
    register_speed(module);
    register_allocation(module);
    register_imatrix(module);
    module.def("build_info", &build_info, "Versions and compiler of this build.");
    module.def("drain_log", &drain_log_lines,
               "llama.cpp's and ggml's messages since the last call.");
    module.def(
        "has_bf16_matmul", [] { return apex::install_own_products(), apex::has_bf16_matmul(); },
        "Whether BF16 weights are multiplied by our kernel.");
    module.def(
        "has_f16_matmul", [] { return apex::install_own_products(), apex::has_f16_matmul(); },
        "The same of F16 weights.");
    module.def(
        "has_panel_matmul",
        [](int type) {
            apex::install_own_products();
            return type >= 0 && type < GGML_TYPE_COUNT &&
                   apex::has_panel_matmul(static_cast<ggml_type>(type));
        },
        "type"_a, "The same of weights of a quantized type.");
    apex::initialize_llama();
}
