// The GPU's second moments, their kernel run on the CPU thread by thread, against the CPU's own
// products of the same rows: the same bits are expected.
//
//   twin_vs_moments [--seed N]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "calibration/squared_columns.h"
#include "cuda/moment_products.cuh"
#include "input_cases.h"

namespace {

using apex::tests::InputData;
using apex::tests::InputShape;
namespace cuda = apex::cuda;

// Several tiles, several times kProductRows rows, some of each left over.
constexpr InputShape kShapes[] = {
    {"plain", {70, 33, 1, 1}, {1, 1}, 0, 0},    {"wide", {300, 150, 1, 1}, {1, 1}, 0, 4},
    {"planes", {32, 50, 6, 4}, {3, 2}, 0, 0},   {"no row", {32, 3, 1, 1}, {4, 1}, 0, 0},
    {"routed", {144, 1, 300, 1}, {3, 1}, 2, 0}, {"slots", {256, 4, 100, 1}, {9, 1}, 4, 16}};

struct Moments {
    std::vector<double> part, rest;
    explicit Moments(int64_t n)
        : part(static_cast<size_t>(apex::packed_size(n)), 0.0), rest(part) {}
    bool operator==(const Moments& other) const { return part == other.part && rest == other.rest; }
    std::vector<double>& half(bool in_part) { return in_part ? part : rest; }
};

// calibration/input_moments.cpp: products, and on the diagonal the importance matrix's squares.
void add(const std::vector<const float*>& rows, int64_t n, bool in_part, Moments& moments) {
    std::vector<double> squares(static_cast<size_t>(n), 0.0);
    apex::sum_squared_columns(rows.data(), rows.size(), 0, n, squares.data());
    std::vector<double>& sums = moments.half(in_part);
    const std::vector<double> before = sums;
    apex::add_products(rows.data(), rows.size(), n, 0, n, sums.data());
    for (int64_t i = 0; i < n && !rows.empty(); ++i) {
        const auto at = static_cast<size_t>(apex::packed_size(i) + i);
        sums[at] = before[at] + squares[static_cast<size_t>(i)];
    }
}

void add_squares(const std::vector<const float*>& rows, int64_t n, double* sums) {
    if (rows.empty()) return;
    std::vector<double> squares(static_cast<size_t>(n));
    apex::sum_squared_columns(rows.data(), rows.size(), 0, n, squares.data());
    for (int64_t i = 0; i < n; ++i) {
        cuda::add_moment_squares(i, squares[static_cast<size_t>(i)], sums);
    }
}

// cuda/moment_products.cu, block by block.
void add_as_twin(const std::vector<const float*>& rows, int64_t n, bool in_part, Moments& moments) {
    double* sums = moments.half(in_part).data();
    const auto memory = std::make_unique<cuda::MomentMemory>();
    const auto row = [&](int i) { return rows[static_cast<size_t>(i)]; };
    for (int64_t tile = 0; tile < cuda::MomentTile::count(n); ++tile) {
        cuda::add_moment_products(cuda::Block{cuda::kMomentThreads}, row,
                                  static_cast<int>(rows.size()), {cuda::MomentTile(tile), n, false},
                                  sums, *memory);
    }
    add_squares(rows, n, sums);
}

// The same where groups of rows are multiplied side by side; some groups at a time.
void add_as_kept_twin(const std::vector<const float*>& rows, int64_t n, bool in_part,
                      Moments& moments) {
    constexpr int kGroups = 2, kStep = kGroups * static_cast<int>(apex::kProductRows);
    double* sums = moments.half(in_part).data();
    const auto memory = std::make_unique<cuda::MomentMemory>();
    const auto row = [&](int i) { return rows[static_cast<size_t>(i)]; };
    const auto n_rows = static_cast<int>(rows.size());
    std::vector<float> kept(size_t{kGroups} * cuda::kMomentElements);
    for (int64_t tile = 0; tile < cuda::MomentTile::count(n); ++tile) {
        const cuda::MomentPlace place{cuda::MomentTile(tile), n, false};
        for (int first = 0; first < n_rows; first += kStep) {
            int n_groups = 0;
            for (; n_groups < kGroups; ++n_groups) {
                const int at = first + n_groups * static_cast<int>(apex::kProductRows);
                if (at >= n_rows) break;
                cuda::keep_moment_products(cuda::Block{cuda::kMomentThreads}, row, at, n_rows,
                                           place, *memory,
                                           kept.data() + n_groups * cuda::kMomentElements);
            }
            for (int thread = 0; thread < cuda::kMomentThreads; ++thread) {
                for (int a = 0; a < cuda::kMomentSide; ++a) {
                    cuda::add_kept_products(thread, a, place, kept.data(), n_groups,
                                            cuda::kMomentElements, sums);
                }
            }
        }
    }
    add_squares(rows, n, sums);
}

}  // namespace

int main(int argc, char** argv) {
    const bool seeded = argc == 3 && std::string(argv[1]) == "--seed";
    std::mt19937_64 random(seeded ? static_cast<uint64_t>(std::atoi(argv[2])) : 1);
    int n_differ_in_all = 0;
    for (const InputShape& shape : kShapes) {
        const InputData once(shape, random), again(shape, random);
        const int64_t n = shape.ne[0];
        int n_differ = 0;
        double trace = 0;
        for (int64_t matrix = 0; matrix < once.input.n_all_matrices(); ++matrix) {
            Moments wanted(n), found(n), kept(n);
            for (const InputData* data : {&once, &again}) {
                const std::vector<const float*> rows = data->rows_of(matrix);
                add(rows, n, data == &again, wanted);
                add_as_twin(rows, n, data == &again, found);
                add_as_kept_twin(rows, n, data == &again, kept);
            }
            if (!(wanted == found) || !(wanted == kept)) ++n_differ;
            trace += wanted.rest.back();
        }
        std::printf("%-8s matrices %d trace %s differ %d\n", shape.name,
                    static_cast<int>(once.input.n_all_matrices()), trace > 0 ? "positive" : "0",
                    n_differ);
        n_differ_in_all += n_differ;
    }
    return n_differ_in_all == 0 ? 0 : 1;
}
