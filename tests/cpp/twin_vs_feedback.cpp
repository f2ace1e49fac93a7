// The GPU's search with error feedback, its kernels run on the CPU thread by thread, under two
// bases at once, against the CPU's own search: the same bytes are expected.
//
//   twin_vs_feedback [--seed N] [--columns N] [--rows N]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/checks.h"
#include "core/quantize_rows.h"
#include "cuda/search_steps.cuh"
#include "moments/feedback.h"

namespace {

using namespace apex;

constexpr int kBases = 2;

struct Problem {
    int64_t n, n_rows;
    std::vector<float> weights;
    FeedbackBasis bases[kBases];
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
    for (int i = 0; i < kBases; ++i) problem.bases[i] = make_basis(moment.data(), n, 0.1 + 0.3 * i);
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
template <cuda::SearchStep kStep, int kBlock, bool kBook>
void run_blocks(const cuda::SearchJob& job, int panel, int pass) {
    const cuda::Block block{cuda::kSearchThreads};
    const cuda::SearchShape shape = cuda::shape_of(kStep, job, panel);
    const cuda::PanelMemory memory(job, kBlock, nullptr);
    std::vector<float> shared(static_cast<size_t>(memory.n_floats));
    const auto of_products = std::make_unique<cuda::ProductMemory>();
    for (int y = 0; y < shape.y; ++y) {
        for (int x = 0; x < shape.x; ++x) {
            for (int basis = 0; basis < kBases; ++basis) {
                const cuda::SearchPlace place{x, y, basis, panel, pass};
                if (cuda::is_product(kStep)) {
                    cuda::multiply_panel<kStep>(block, job, place, *of_products);
                } else {
                    cuda::search_panel<kStep, kBlock, kBook>(block, job, place, shared.data());
                }
            }
        }
    }
}

template <int kBlock, bool kBook>
void search(const cuda::SearchJob& job) {
    using cuda::SearchStep;
    cuda::search_in_steps(job, [&](SearchStep step, int panel, int pass) {
        switch (step) {
#define APEX_STEP(name)    \
    case SearchStep::name: \
        return run_blocks<SearchStep::name, kBlock, kBook>(job, panel, pass);
            APEX_STEP(read)
            APEX_STEP(feed)
            APEX_STEP(spread_errors)
            APEX_STEP(differ)
            APEX_STEP(set_gradient)
            APEX_STEP(refine)
            APEX_STEP(spread_changes)
            APEX_STEP(refit)
            APEX_STEP(spread_scales)
            APEX_STEP(write)
#undef APEX_STEP
        }
    });
}

struct Found {
    int n_differ = 0;   // rows whose bytes are not the CPU's
    int n_changed = 0;  // rows whose bytes are not ggml's
};

// What the GPU has of the bases, one behind the other.
struct BasisArrays {
    std::vector<float> moment, root, block_root, block_inverse;

    void add(const FeedbackBasis& basis, int block) {
        const BlockBasis blocks = make_blocks(basis, block);
        append(moment, basis.moment);
        append(root, transposed(basis.root, basis.n));
        append(block_root, blocks.root);
        append(block_inverse, blocks.inverse);
    }

  private:
    static void append(std::vector<float>& to, const std::vector<float>& values) {
        to.insert(to.end(), values.begin(), values.end());
    }
};

Found compare(const Problem& problem, ggml_type type) {
    const ScalarFormat& format = *scalar_format(type);
    FeedbackEffort effort;
    effort.max_rounds = 1;  // each is one such search
    const size_t size = row_bytes(type, problem.n);
    const size_t n_bytes = static_cast<size_t>(problem.n_rows) * size + 13;  // a gap between bases
    std::vector<uint8_t> start(kBases * n_bytes), wanted(start), found(start);
    std::vector<float> costs(static_cast<size_t>(problem.n_rows));
    BasisArrays arrays;
    for (size_t i = 0; i < kBases; ++i) {
        const FeedbackBasis& basis = problem.bases[i];
        quantize_rows(type, problem.weights.data(), start.data() + i * n_bytes, problem.n_rows,
                      problem.n, basis.importance.data());
        FeedbackRows(type, basis, effort)
            .quantize(problem.weights.data(), problem.n_rows, start.data() + i * n_bytes,
                      wanted.data() + i * n_bytes, costs.data());
        arrays.add(basis, format.block);
    }
    cuda::SearchJob job{format,
                        static_cast<int>(problem.n),
                        static_cast<int>(problem.n_rows),
                        problem.weights.data(),
                        start.data(),
                        found.data(),
                        n_bytes,
                        size,
                        ggml_type_size(type),
                        {arrays.moment.data(), arrays.root.data(), arrays.block_root.data(),
                         arrays.block_inverse.data()},
                        nullptr,
                        effort.scale_radius,
                        effort.refine_radius,
                        effort.max_passes};
    std::vector<float> scratch(static_cast<size_t>(kBases * cuda::search_floats(job)));
    job.scratch = scratch.data();
    if (format.has_code_book) {
        search<32, true>(job);
    } else if (format.block == 32) {
        search<32, false>(job);
    } else {
        search<16, false>(job);
    }
    Found result;
    for (size_t at = 0; at < start.size(); at += n_bytes) {
        for (int64_t row = 0; row < problem.n_rows; ++row) {
            const size_t from = at + static_cast<size_t>(row) * size;
            const uint8_t* mine = found.data() + from;
            if (std::memcmp(wanted.data() + from, mine, size) != 0) ++result.n_differ;
            if (std::memcmp(start.data() + from, mine, size) != 0) ++result.n_changed;
        }
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
    int in_all = 0;
    for (int number = 0; number < GGML_TYPE_COUNT; ++number) {
        const auto type = static_cast<ggml_type>(number);
        if (scalar_format(type) == nullptr || n % ggml_blck_size(type) != 0) continue;
        const Found rows = compare(problem, type);
        std::printf("%s rows %d changed %d differ %d\n", ggml_type_name(type), kBases * n_rows,
                    rows.n_changed, rows.n_differ);
        in_all += rows.n_differ;
    }
    return in_all == 0 ? 0 : 1;
}
