#include "core/checks.h"

#include <cmath>

#include "core/error.h"
#include "core/row_error.h"

namespace apex {

bool is_known_type(uint32_t number) {
    return number < GGML_TYPE_COUNT && ggml_blck_size(static_cast<ggml_type>(number)) > 0;
}

ggml_type checked_type(int64_t number) {
    if (number < 0 || number >= GGML_TYPE_COUNT || !is_known_type(static_cast<uint32_t>(number))) {
        fail<InvalidArgument>("ggml type number ", number, " is unknown or removed");
    }
    return static_cast<ggml_type>(number);
}

uint64_t row_bytes(ggml_type type, int64_t n_per_row) {
    const int64_t block = ggml_blck_size(type);
    if (block <= 0 || n_per_row <= 0 || n_per_row % block != 0) {
        fail<InvalidArgument>("row of ", n_per_row, " weights: expected a positive multiple of ",
                              block, ", the block of ", ggml_type_name(type));
    }
    return static_cast<uint64_t>(n_per_row / block) * ggml_type_size(type);
}

bool is_quantize_target(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:
            return true;
        case GGML_TYPE_Q8_1:
        case GGML_TYPE_Q8_K:
            return false;  // activation formats
        default:
            return is_known_type(static_cast<uint32_t>(type)) && ggml_is_quantized(type);
    }
}

bool is_readable_source(ggml_type type) {
    return type == GGML_TYPE_F32 || (is_known_type(static_cast<uint32_t>(type)) &&
                                     ggml_get_type_traits(type)->to_float != nullptr);
}

bool kernel_requires_imatrix(ggml_type type) {
    return ggml_quantize_requires_imatrix(type);
}

void check_conversion(const std::string& tensor, ggml_type source, ggml_type target,
                      int64_t n_per_row, bool has_imatrix) {
    if (!is_readable_source(source)) {
        fail<InvalidArgument>("tensor '", tensor, "' has type ", ggml_type_name(source),
                              ", which holds no weights that can be converted");
    }
    if (!is_quantize_target(target)) {
        fail<InvalidArgument>("tensor '", tensor, "' cannot be written as ", ggml_type_name(target),
                              ": ggml has no quantizer for that type");
    }
    row_bytes(source, n_per_row);
    row_bytes(target, n_per_row);
    if (kernel_requires_imatrix(target) && !has_imatrix) {
        fail<ImatrixError>("tensor '", tensor, "': type ", ggml_type_name(target),
                           " needs an importance matrix and there is none for this tensor");
    }
}

void check_finite(const char* what, const float* weights, int64_t n) {
    if (!all_finite(weights, n)) {
        fail<QuantizeError>(what, ": expected finite values, found NaN or Inf");
    }
}

int64_t check_stored(ggml_type type, int64_t n_bytes, int64_t n_per_row) {
    if (!is_readable_source(type)) {
        fail<InvalidArgument>(ggml_type_name(type), " holds no weights that can be read");
    }
    const auto row_size = static_cast<int64_t>(row_bytes(type, n_per_row));
    if (n_bytes == 0 || n_bytes % row_size != 0) {
        fail<InvalidArgument>("stored: expected a multiple of ", row_size, " bytes, found ",
                              n_bytes);
    }
    return n_bytes / row_size;
}

void check_imatrix(const std::string& tensor, const float* values, int64_t n_per_row,
                   int64_t n_slices) {
    for (int64_t i = 0; i < n_per_row * n_slices; ++i) {
        if (!(std::isfinite(values[i]) && values[i] >= 0.0f)) {
            fail<ImatrixError>("importance matrix of '", tensor, "': expert ", i / n_per_row,
                               ", column ", i % n_per_row, " holds ", values[i],
                               ", expected a finite value >= 0; collect it again");
        }
    }
}

}  // namespace apex
