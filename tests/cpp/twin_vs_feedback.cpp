// The GPU's search with error feedback, its kernel run on the CPU thread by thread, against the
// CPU's own search: the same bytes are expected.
//
//   twin_vs_feedback [--seed N] [--columns N] [--rows N]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/checks.h"
#include "core/quantize_rows.h"
#include "cuda/scalar_refine.cuh"
#include "moments/feedback.h"

namespace {

using namespace apex;

struct Problem {
    int64_t n, n_rows;
    std::vector<float> weights;
    FeedbackBasis basis;
};

// Gaussian, small, zero and with one outlier, row by row, under a moment that a few directions
// dominate.
Problem make_problem(int64_t n, int64_t n_rows, std::mt19937& random) {
    std::normal_distribution<float> gaussian;
    Problem problem{n, n_rows, {}, {}};
    for (int64_t row = 0; row < n_rows; ++row) {
        const float size = row % 5 == 1 ? 1e-6f : row % 5 == 3 ? 0.0f : 1.0f;
        for (int64_t i = 0; i < n; ++i) problem.weights.push_back(size * gaussian(random));
        if (row % 5 == 2) problem.weights[static_cast<size_t>(row * n + n / 3)] = 60.0f;
    }
    constexpr int kDirections = 12;
    std::vector<double> moment(static_cast<size_t>(n * n), 0.0), along(static_cast<size_t>(n));
    for (int k = 0; k < kDirections; ++k) {
        for (double& value : along) value = gaussian(random);
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = 0; j <= i; ++j) {
                moment[static_cast<size_t>(i * n + j)] +=
                    along[static_cast<size_t>(i)] * along[static_cast<size_t>(j)];
            }
        }
    }
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < i; ++j) {
            moment[static_cast<size_t>(j * n + i)] = moment[static_cast<size_t>(i * n + j)];
        }
    }
    problem.basis = make_basis(moment.data(), n, 0.1);
    return problem;
}

std::vector<float> transposed(const std::vector<float>& matrix, int64_t n) {
    std::vector<float> result(matrix.size());
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            result[static_cast<size_t>(j * n + i)] = matrix[static_cast<size_t>(i * n + j)];
        }
    }
    return result;
}

// cuda/scalar_search.cu, block by block.
template <int kBlock, bool kBook, int kRows, int kSlots>
void search(const cuda::SearchJob& job) {
    const cuda::Block block{(job.n + 32 * kSlots - 1) / (32 * kSlots) * 32};
    const cuda::SearchMemory memory(job, kBlock, kRows, nullptr);
    std::vector<float> shared(static_cast<size_t>(memory.n_floats));
    for (int i = 0; i * kRows < job.n_rows; ++i) {
        cuda::ScalarSearch<kBlock, kBook, kRows, kSlots>(block, job, i, 0, i, shared.data()).run();
    }
}

template <int kBlock, bool kBook>
void search_in_shape(const cuda::SearchJob& job, int slots) {
    if (slots == 2) return search<kBlock, kBook, 16, 2>(job);
    if (slots == 4) return search<kBlock, kBook, 16, 4>(job);
    if (slots == 8) return search<kBlock, kBook, 8, 8>(job);
    return search<kBlock, kBook, 4, 16>(job);
}

struct Found {
    int n_differ = 0;   // rows whose bytes are not the CPU's
    int n_changed = 0;  // rows whose bytes are not ggml's
};

Found compare(const Problem& problem, ggml_type type, int slots) {
    const int64_t n = problem.n;
    const size_t size = row_bytes(type, n);
    const size_t n_bytes = static_cast<size_t>(problem.n_rows) * size;
    std::vector<uint8_t> start(n_bytes), wanted(n_bytes), found(n_bytes);
    std::vector<float> costs(static_cast<size_t>(problem.n_rows));
    quantize_rows(type, problem.weights.data(), start.data(), problem.n_rows, n,
                  problem.basis.importance.data());
    const FeedbackEffort effort;
    FeedbackRows(type, problem.basis, effort)
        .quantize(problem.weights.data(), problem.n_rows, start.data(), wanted.data(),
                  costs.data());

    const ScalarFormat& format = *scalar_format(type);
    const BlockBasis blocks = make_blocks(problem.basis, format.block);
    const std::vector<float> root = transposed(problem.basis.root, n);
    std::vector<float> scratch(
        static_cast<size_t>(cuda::kScratchArrays * (problem.n_rows + 16) * n));
    cuda::SearchJob job{
        format,
        static_cast<int>(n),
        static_cast<int>(problem.n_rows),
        problem.weights.data(),
        start.data(),
        found.data(),
        0,
        size,
        ggml_type_size(type),
        {problem.basis.moment.data(), root.data(), blocks.root.data(), blocks.inverse.data()},
        scratch.data(),
        effort.scale_radius,
        effort.refine_radius,
        effort.max_passes};
    if (format.has_code_book) {
        search_in_shape<32, true>(job, slots);
    } else if (format.block == 32) {
        search_in_shape<32, false>(job, slots);
    } else {
        search_in_shape<16, false>(job, slots);
    }
    Found result;
    for (int64_t row = 0; row < problem.n_rows; ++row) {
        const size_t at = static_cast<size_t>(row) * size;
        if (std::memcmp(wanted.data() + at, found.data() + at, size) != 0) ++result.n_differ;
        if (std::memcmp(wanted.data() + at, start.data() + at, size) != 0) ++result.n_changed;
    }
    return result;
}

int option(int argc, char** argv, const std::string& name, int otherwise) {
    for (int i = 1; i + 1 < argc; ++i) {
        if (name == argv[i]) return std::atoi(argv[i + 1]);
    }
    return otherwise;
}

}  // namespace

int main(int argc, char** argv) {
    std::mt19937 random(static_cast<unsigned>(option(argc, argv, "--seed", 1)));
    const int n = option(argc, argv, "--columns", 512), n_rows = option(argc, argv, "--rows", 19);
    const Problem problem = make_problem(n, n_rows, random);
    int in_all = 0, shape = 0;
    for (int number = 0; number < GGML_TYPE_COUNT; ++number) {
        const auto type = static_cast<ggml_type>(number);
        if (scalar_format(type) == nullptr) continue;
        const int slots = 2 << shape++ % 4;
        const Found rows = compare(problem, type, slots);
        std::printf("%s slots %d rows %d changed %d differ %d\n", ggml_type_name(type), slots,
                    n_rows, rows.n_changed, rows.n_differ);
        in_all += rows.n_differ;
    }
    return in_all == 0 ? 0 : 1;
}
