#include "model/matmul_columns.h"

#include <algorithm>

#include "traits.h"

namespace apex {
namespace {

float* output_row(const ggml_tensor* output, int64_t i1, int64_t i2, int64_t i3) {
    return reinterpret_cast<float*>(static_cast<char*>(output->data) + i1 * output->nb[1] +
                                    i2 * output->nb[2] + i3 * output->nb[3]);
}

// visit(slot, token, matrix) of every column.
template <typename Visit>
void each_routed(const MatmulShape& shape, const Visit& visit) {
    const ggml_tensor* ids = shape.ids;
    for (int64_t token = 0; token < ids->ne[1]; ++token) {
        for (int64_t slot = 0; slot < ids->ne[0]; ++slot) {
            const char* id =
                static_cast<const char*>(ids->data) + slot * ids->nb[0] + token * ids->nb[1];
            const int32_t matrix = *reinterpret_cast<const int32_t*>(id);
            if (matrix >= 0 && matrix < shape.n_matrices()) visit(slot, token, matrix);
        }
    }
}

}  // namespace

MatmulShape::MatmulShape(const ggml_tensor* op)
    : weights(op->src[0]),
      input(op->src[1]),
      ids(op->op == GGML_OP_MUL_MAT_ID ? op->src[2] : nullptr),
      output(op) {}

const float* MatmulShape::input_row(int64_t i) const {
    const int64_t i1 = i % input->ne[1], i2 = i / input->ne[1] % input->ne[2];
    const int64_t i3 = i / (input->ne[1] * input->ne[2]);
    return reinterpret_cast<const float*>(static_cast<const char*>(input->data) +
                                          i1 * input->nb[1] + i2 * input->nb[2] +
                                          i3 * input->nb[3]);
}

const char* MatmulShape::weight_row(int64_t matrix, int64_t row) const {
    return static_cast<const char*>(weights->data) + matrix * weights->nb[2] + row * weights->nb[1];
}

bool is_matmul(const ggml_tensor* op) {
    return op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID;
}

bool has_plain_rows(const MatmulShape& shape) {
    const ggml_tensor *w = shape.weights, *x = shape.input, *y = shape.output;
    if (x->type != GGML_TYPE_F32 || y->type != GGML_TYPE_F32 || w->ne[3] != 1) return false;
    const bool stored_by_rows = w->nb[0] == ggml_type_size(w->type) && x->nb[0] == sizeof(float) &&
                                y->nb[0] == sizeof(float);
    if (!stored_by_rows) return false;
    if (shape.ids != nullptr) return shape.ids->type == GGML_TYPE_I32 && x->ne[3] == 1;
    return w->ne[2] == 1 && ggml_get_op_params_i32(y, 1) != GGML_HINT_SRC0_IS_HADAMARD;
}

void MatmulColumns::list(const MatmulShape& shape, const char* ready, size_t bytes_of_input) const {
    const ggml_tensor *input = shape.input, *output = shape.output;
    const auto ready_row = [&](int64_t i) {
        return ready + static_cast<size_t>(i) * bytes_of_input;
    };
    const int64_t n_matrices = shape.n_matrices();
    std::fill_n(first, n_matrices + 1, 0);
    if (shape.ids == nullptr) {
        for (int64_t i = 0; i < shape.n_columns(); ++i) {
            inputs[i] = ready_row(i);
            outputs[i] = output_row(output, i % input->ne[1], i / input->ne[1] % input->ne[2],
                                    i / (input->ne[1] * input->ne[2]));
        }
        first[1] = shape.n_columns();
        return;
    }
    each_routed(shape, [&](int64_t, int64_t, int32_t matrix) { ++first[matrix + 1]; });
    for (int64_t i = 0; i < n_matrices; ++i) first[i + 1] += first[i];
    each_routed(shape, [&](int64_t slot, int64_t token, int32_t matrix) {
        const int64_t at = first[matrix]++;
        inputs[at] = ready_row(slot % input->ne[1] + token * input->ne[1]);
        outputs[at] = output_row(output, slot, token, 0);
    });
    for (int64_t i = n_matrices; i > 0; --i) first[i] = first[i - 1];
    first[0] = 0;
}

}  // namespace apex
