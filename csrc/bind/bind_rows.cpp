#include "bind/arrays.h"
#include "bind/types.h"
#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/quantize_rows.h"

namespace apex::bind {
namespace {

ByteArray quantize(const FloatArray& weights, ggml_type type,
                   const std::optional<FloatArray>& imatrix, bool own_kernel) {
    if (weights.ndim() != 2 || weights.size() == 0) {
        fail<InvalidArgument>("weights: expected shape (rows, n_per_row) with at least one row");
    }
    const int64_t n_rows = weights.shape(0), n_per_row = weights.shape(1);
    check_conversion("weights", GGML_TYPE_F32, type, n_per_row, imatrix.has_value());
    if (imatrix) {
        require_size(*imatrix, n_per_row, "imatrix");
        check_imatrix("weights", imatrix->data(), n_per_row, 1);
    }
    ByteArray result({n_rows, static_cast<int64_t>(row_bytes(type, n_per_row))});
    const float* src = weights.data();
    const float* matrix = imatrix ? imatrix->data() : nullptr;
    uint8_t* dst = result.mutable_data();
    const py::gil_scoped_release unlocked;
    check_finite("weights", src, n_rows * n_per_row);
    const auto quantize_with = own_kernel ? quantize_rows : quantize_rows_by_ggml;
    quantize_with(type, src, dst, n_rows, n_per_row, matrix);
    return result;
}

FloatArray dequantize(const ByteArray& stored, ggml_type type, int64_t n_per_row) {
    const int64_t n_rows = check_stored(type, stored.size(), n_per_row);
    FloatArray result({n_rows, n_per_row});
    const uint8_t* src = stored.data();
    float* dst = result.mutable_data();
    const py::gil_scoped_release unlocked;
    convert_to_float(type, src, dst, n_rows * n_per_row);
    return result;
}

}  // namespace

void register_rows(py::module_& module) {
    module.def(
        "quantize_rows", &quantize, py::arg("weights").noconvert(), "type"_a,
        py::arg("imatrix").noconvert() = py::none(), "own_kernel"_a = true,
        "float32 (rows, n_per_row) to uint8 (rows, row bytes), by our kernel if there is one "
        "or always by ggml's function, with equal bytes; GIL released.");
    module.def("kernel_isa", &kernel_isa, "'avx512', 'avx2' or 'portable' (ggml does it all).");
    module.def("dequantize_rows", &dequantize, py::arg("stored").noconvert(), "type"_a,
               "n_per_row"_a, "uint8 rows to float32 (rows, n_per_row); GIL released.");
}

}  // namespace apex::bind
