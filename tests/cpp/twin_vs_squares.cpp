// The GPU's importance matrix, run on the CPU in the GPU's order, against the CPU's own sums over
// rows that are listed here in another way: the same bits are expected.
//
//   twin_vs_squares [--seed N]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "calibration/squared_columns.h"
#include "cuda/squares.cuh"
#include "input_cases.h"

namespace {

using apex::DeviceInput;
using apex::tests::InputData;
namespace cuda = apex::cuda;

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

int64_t count_differences(const InputData& data) {
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
    for (const apex::tests::InputShape& shape : apex::tests::kInputShapes) {
        const InputData data(shape, random);
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
