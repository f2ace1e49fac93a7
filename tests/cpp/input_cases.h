// Inputs of matrix products in all the layouts ggml has, and their rows listed by its definitions:
// for the GPU's sums of squares, their twin on the CPU and the GPU itself.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "calibration/device_squares.h"

namespace apex::tests {

struct InputShape {
    const char* name;
    int64_t ne[4];          // of the input
    int64_t n_matrices[2];  // of the weight
    int64_t n_used;         // 0: not routed
    int64_t padding;        // floats between rows
};

inline constexpr InputShape kInputShapes[] = {
    {"plain", {70, 33, 1, 1}, {1, 1}, 0, 0},   {"padded", {64, 17, 1, 1}, {1, 1}, 0, 8},
    {"planes", {32, 5, 6, 4}, {3, 2}, 0, 0},   {"uneven", {33, 2, 5, 3}, {2, 2}, 0, 4},
    {"no row", {32, 3, 1, 1}, {4, 1}, 0, 0},   {"routed", {48, 1, 300, 1}, {7, 1}, 3, 0},
    {"slots", {40, 4, 200, 1}, {9, 1}, 4, 16}, {"one expert", {16, 1, 130, 1}, {1, 1}, 1, 0}};

struct InputData {
    std::vector<float> values;
    std::vector<int32_t> experts;
    DeviceInput input;

    InputData(const InputShape& shape, std::mt19937_64& random) {
        std::normal_distribution<float> normal;
        std::copy_n(shape.ne, 4, input.ne);
        std::copy_n(shape.n_matrices, 2, input.n_matrices);
        input.nb[0] = sizeof(float);
        input.nb[1] = static_cast<size_t>(shape.ne[0] + shape.padding) * sizeof(float);
        input.nb[2] = input.nb[1] * static_cast<size_t>(shape.ne[1]);
        input.nb[3] = input.nb[2] * static_cast<size_t>(shape.ne[2]);
        values.resize(input.nb[3] * static_cast<size_t>(shape.ne[3]) / sizeof(float));
        for (float& value : values) value = normal(random);
        input.data = values.data();
        if (shape.n_used == 0) return;
        // A view of the first columns of all experts, as ggml's top-k gives.
        const int64_t stride = shape.n_matrices[0] + 2;
        experts.resize(static_cast<size_t>(stride * shape.ne[2]));
        for (int32_t& expert : experts) {
            expert = static_cast<int32_t>(random() % static_cast<uint64_t>(shape.n_matrices[0]));
        }
        input.experts = experts.data();
        input.n_used = shape.n_used;
        input.n_tokens = shape.ne[2];
        input.expert_nb[0] = sizeof(int32_t);
        input.expert_nb[1] = static_cast<size_t>(stride) * sizeof(int32_t);
    }

    const float* row(int64_t i1, int64_t i2, int64_t i3) const {
        const size_t at = static_cast<size_t>(i1) * input.nb[1] +
                          static_cast<size_t>(i2) * input.nb[2] +
                          static_cast<size_t>(i3) * input.nb[3];
        return values.data() + at / sizeof(float);
    }

    // By the definition of MUL_MAT and MUL_MAT_ID (ggml.h): every row asks for its matrix.
    std::vector<const float*> rows_of(int64_t matrix) const {
        std::vector<const float*> rows;
        for (int64_t i3 = 0; i3 < input.ne[3]; ++i3) {
            for (int64_t i2 = 0; i2 < input.ne[2]; ++i2) {
                if (input.experts != nullptr) {
                    const auto* ids = experts.data() + static_cast<size_t>(i2) *
                                                           input.expert_nb[1] / sizeof(int32_t);
                    for (int64_t slot = 0; slot < input.n_used; ++slot) {
                        if (ids[slot] == matrix) rows.push_back(row(slot % input.ne[1], i2, 0));
                    }
                    continue;
                }
                const int64_t of =
                    i2 % input.n_matrices[0] + i3 % input.n_matrices[1] * input.n_matrices[0];
                for (int64_t i1 = 0; of == matrix && i1 < input.ne[1]; ++i1) {
                    rows.push_back(row(i1, i2, i3));
                }
            }
        }
        return rows;
    }
};

}  // namespace apex::tests
