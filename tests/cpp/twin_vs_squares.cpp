// The GPU's importance matrix, run on the CPU in the GPU's order, against the CPU's own sums over
// rows that are listed here in another way: the same bits are expected.
//
//   twin_vs_squares [--seed N]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/squared_columns.h"
#include "cuda/squares.cuh"

namespace {

using apex::DeviceInput;
namespace cuda = apex::cuda;

struct Shape {
    const char* name;
    int64_t ne[4];          // of the input
    int64_t n_matrices[2];  // of the weight
    int64_t n_used;         // 0: not routed
    int64_t padding;        // floats between rows
};

constexpr Shape kShapes[] = {
    {"plain", {70, 33, 1, 1}, {1, 1}, 0, 0},   {"padded", {64, 17, 1, 1}, {1, 1}, 0, 8},
    {"planes", {32, 5, 6, 4}, {3, 2}, 0, 0},   {"uneven", {33, 2, 5, 3}, {2, 2}, 0, 4},
    {"no row", {32, 3, 1, 1}, {4, 1}, 0, 0},   {"routed", {48, 1, 300, 1}, {7, 1}, 3, 0},
    {"slots", {40, 4, 200, 1}, {9, 1}, 4, 16}, {"one expert", {16, 1, 130, 1}, {1, 1}, 1, 0}};

struct Data {
    std::vector<float> values;
    std::vector<int32_t> experts;
    DeviceInput input;

    Data(const Shape& shape, std::mt19937_64& random) {
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

// cuda/imatrix_squares.cu, one thread.
double twin_sum(const DeviceInput& input, int64_t matrix, int64_t column, int64_t& count) {
    double sum = 0.0;
    count = 0;
    if (input.experts != nullptr) {
        for (uint32_t i = 0; i < cuda::n_routed_rows(input); ++i) {
            if (cuda::expert_of(input, i) != matrix) continue;
            sum = cuda::add_square(sum, cuda::routed_row(input, i)[column]);
            ++count;
        }
        return sum;
    }
    const cuda::Planes planes(input, matrix);
    for (int64_t i = 0; i < planes.count(); ++i) {
        for (int64_t row = 0; row < input.ne[1]; ++row, ++count) {
            const char* at = reinterpret_cast<const char*>(planes.rows(input, i) + column) +
                             row * static_cast<int64_t>(input.nb[1]);
            sum = cuda::add_square(sum, *reinterpret_cast<const float*>(at));
        }
    }
    return sum;
}

int64_t count_differences(const Data& data) {
    int64_t n_differ = 0;
    const int64_t n_per_row = data.input.ne[0];
    std::vector<double> wanted(static_cast<size_t>(n_per_row));
    for (int64_t matrix = 0; matrix < data.input.n_all_matrices(); ++matrix) {
        const std::vector<const float*> rows = data.rows_of(matrix);
        apex::sum_squared_columns(rows.data(), rows.size(), 0, n_per_row, wanted.data());
        for (int64_t column = 0; column < n_per_row; ++column) {
            int64_t count;
            const double found = twin_sum(data.input, matrix, column, count);
            const double& want = wanted[static_cast<size_t>(column)];
            if (std::memcmp(&found, &want, sizeof(found)) != 0) ++n_differ;
            if (count != static_cast<int64_t>(rows.size())) ++n_differ;
            if (!cuda::is_finite_sum(found)) ++n_differ;
        }
    }
    return n_differ;
}

}  // namespace

int main(int argc, char** argv) {
    const bool seeded = argc == 3 && std::string(argv[1]) == "--seed";
    std::mt19937_64 random(seeded ? static_cast<uint64_t>(std::atoi(argv[2])) : 1);
    int64_t n_all = 0;
    for (const Shape& shape : kShapes) {
        const Data data(shape, random);
        const int64_t n_differ = count_differences(data);
        std::printf("%-10s matrices %d differ %d\n", shape.name,
                    static_cast<int>(data.input.n_all_matrices()), static_cast<int>(n_differ));
        n_all += n_differ;
    }
    const float nan = std::strtof("nan", nullptr);
    if (cuda::is_finite_sum(cuda::add_square(0.0, nan))) ++n_all;
    if (cuda::is_finite_sum(cuda::add_square(0.0, 1.0f / 0.0f))) ++n_all;
    return n_all == 0 ? 0 : 1;
}
