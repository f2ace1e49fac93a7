#include "bind/types.h"
#include "kernels/quantized_types.h"
#include "model/context.h"

namespace apex::bind {
namespace {

py::object type_traits(int64_t number) {
    if (number < 0 || number >= GGML_TYPE_COUNT) return py::none();
    if (!is_known_type(static_cast<uint32_t>(number))) return py::none();
    const auto type = static_cast<ggml_type>(number);
    return py::make_tuple(ggml_type_name(type), ggml_blck_size(type), ggml_type_size(type),
                          is_quantize_target(type), kernel_requires_imatrix(type));
}

const char* name_of(kernels::MatrixUse use) {
    switch (use) {
        case kernels::MatrixUse::ignored:
            return "ignored";
        case kernels::MatrixUse::optional:
            return "optional";
        default:
            return "required";
    }
}

py::dict quantized_types() {
    py::dict types;
    for (const kernels::QuantizedType& known : kernels::kQuantizedTypes) {
        types[py::cast(known.type)] = name_of(known.matrix);
    }
    return types;
}

}  // namespace

void register_types(py::module_& module) {
    module.def("type_traits", &type_traits, "type"_a,
               "(ggml name, block, block bytes, is target, needs imatrix), None if unknown.");
    module.def("quantized_types", &quantized_types,
               "Numbers of the types with kernels of ours, and whether their importance matrix is "
               "'ignored', 'optional' or 'required'.");
    module.def(
        "cache_types",
        [] { return std::vector<ggml_type>(std::begin(kCacheTypes), std::end(kCacheTypes)); },
        "Numbers of the types a KV cache may have.");
    module.attr("n_types") = static_cast<int>(GGML_TYPE_COUNT);
}

}  // namespace apex::bind
