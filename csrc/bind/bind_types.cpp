#include "bind/types.h"
#include "kernels/quantized_types.h"

namespace apex::bind {
namespace {

py::object type_traits(int64_t number) {
    const bool is_weights =
        number >= 0 && number < GGML_TYPE_COUNT && is_known_type(static_cast<uint32_t>(number));
    if (!is_weights && !is_turbo_number(number)) return py::none();
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

const char* name_of(CachePath path) {
    switch (path) {
        case CachePath::direct:
            return "direct";
        case CachePath::converted:
            return "converted";
        default:
            return "host";
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
        "cache_types", [] { return cache_types(); }, "Numbers of the types a KV cache may have.");
    module.def(
        "cuda_cache_path",
        [](ggml_type type_k, ggml_type type_v) { return name_of(cuda_cache_path(type_k, type_v)); },
        "type_k"_a, "type_v"_a,
        "How a GPU attends to a cache when one token is generated: 'direct', 'converted' or "
        "'host'.");
    module.attr("n_types") = static_cast<int>(GGML_TYPE_COUNT);
}

}  // namespace apex::bind
