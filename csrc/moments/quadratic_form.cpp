#include "moments/quadratic_form.h"

#include <cstddef>
#include <vector>

#include "core/convert_rows.h"
#include "core/simd_clones.h"

namespace apex {
namespace {

// product += factor * row, of the first n.
APEX_SIMD_CLONES
void add_scaled(const float* row, double factor, int64_t n, double* product) {
    for (int64_t j = 0; j < n; ++j) product[j] += factor * static_cast<double>(row[j]);
}

}  // namespace

double quadratic_forms(const float* moment, int64_t n, const float* rows, int64_t n_rows,
                       double* per_row) {
    std::vector<double> product(static_cast<size_t>(n));
    double total = 0;
    for (int64_t row = 0; row < n_rows; ++row) {
        const float* values = rows + row * n;
        product.assign(product.size(), 0.0);
        for (int64_t i = 0; i < n; ++i) add_scaled(moment + i * n, values[i], n, product.data());
        double sum = 0;
        for (int64_t j = 0; j < n; ++j) sum += product[static_cast<size_t>(j)] * values[j];
        if (per_row != nullptr) per_row[row] = sum;
        total += sum;
    }
    return total;
}

double output_errors(const float* moment, int64_t n, const float* weights, ggml_type type,
                     const uint8_t* bytes, int64_t n_rows, double* per_row) {
    std::vector<float> errors(static_cast<size_t>(n_rows * n));
    convert_to_float(type, bytes, errors.data(), n_rows * n);
    for (size_t i = 0; i < errors.size(); ++i) errors[i] = weights[i] - errors[i];
    return quadratic_forms(moment, n, errors.data(), n_rows, per_row);
}

}  // namespace apex
