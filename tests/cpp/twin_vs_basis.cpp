// The GPU's bases of second moments, their kernels run on the CPU thread by thread, against the
// CPU's own: the same bits are expected.
//
//   twin_vs_basis [--seed N]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cuda/moment_basis.cuh"
#include "moments/basis.h"
#include "moments/moment_source.h"

namespace {

using namespace apex;

constexpr double kDamping = 0.3;
constexpr int64_t kMatrices = 3;

struct Sums {
    std::vector<float> total, part;
    std::vector<int64_t> counts, part_counts;
};

// Of a few tokens each; the last matrix has none.
Sums some_sums(int64_t n, std::mt19937& random) {
    std::normal_distribution<float> gaussian;
    Sums sums{std::vector<float>(static_cast<size_t>(kMatrices * packed_size(n))),
              {},
              {30, 12, 0},
              {14, 5, 0}};
    sums.part = sums.total;
    std::vector<float> row(static_cast<size_t>(n));
    for (int64_t matrix = 0; matrix < kMatrices; ++matrix) {
        float* total = sums.total.data() + matrix * packed_size(n);
        float* part = sums.part.data() + matrix * packed_size(n);
        for (int64_t token = 0; token < sums.counts[static_cast<size_t>(matrix)]; ++token) {
            const bool in_part = token < sums.part_counts[static_cast<size_t>(matrix)];
            for (float& value : row) value = gaussian(random);
            for (int64_t i = 0; i < n; ++i) {
                for (int64_t j = 0; j <= i; ++j) {
                    const float product = row[static_cast<size_t>(i)] * row[static_cast<size_t>(j)];
                    total[packed_size(i) + j] += product;
                    if (in_part) part[packed_size(i) + j] += product;
                }
            }
        }
    }
    return sums;
}

// The layer's mean, by its definition in moments/moment_source.cpp.
std::vector<double> layer_mean(const Sums& sums, int64_t n, MomentPart which) {
    std::vector<double> mean(static_cast<size_t>(packed_size(n)), 0.0);
    double tokens = 0;
    for (size_t matrix = 0; matrix < kMatrices; ++matrix) {
        const int64_t all = sums.counts[matrix], part = sums.part_counts[matrix];
        tokens += static_cast<double>(which == MomentPart::all    ? all
                                      : which == MomentPart::part ? part
                                                                  : all - part);
        for (size_t i = 0; i < mean.size(); ++i) {
            const size_t at = matrix * mean.size() + i;
            const double total = sums.total[at], held = sums.part[at];
            mean[i] += which == MomentPart::all    ? total
                       : which == MomentPart::part ? held
                                                   : total - held;
        }
    }
    for (double& value : mean) value /= tokens > 1.0 ? tokens : 1.0;
    return mean;
}

struct Twin {
    std::vector<double> matrix, root;
    double added = 0;
    int failed = 0;

    Twin(const cuda::MomentRecipe& recipe, int n)
        : matrix(static_cast<size_t>(n) * static_cast<size_t>(n)), root(matrix) {
        const cuda::Block block{cuda::kFactorThreads};
        std::vector<float> shared(static_cast<size_t>(cuda::FactorMemory(nullptr).n_floats));
        const cuda::FactorMemory memory(shared.data());
        cuda::find_damping(block, recipe, n, kDamping, &added, memory);
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j <= i; ++j) {
                matrix[static_cast<size_t>(i * n + j)] =
                    cuda::element_of(recipe, i, j) + (i == j ? added : 0.0);
            }
        }
        for (int end = n; end > 0;) {
            const int begin = end > cuda::kFactor ? end - cuda::kFactor : 0;
            cuda::factor_triangle(block, matrix.data(), n, begin, end, &failed, memory);
            for (int first = 0; first < begin; first += cuda::kFactor) {
                cuda::factor_panel(block, matrix.data(), n, begin, end, first, memory);
            }
            for (int i = 0; i < begin; i += cuda::kFactor) {
                for (int j = 0; j <= i; j += cuda::kFactor) {
                    cuda::update_tile(block, matrix.data(), n, begin, end, i, j, memory);
                }
            }
            end = begin;
        }
        for (int first = 0; first < n; first += cuda::kFactor) {
            cuda::invert_columns(block, matrix.data(), n, first, root.data(), memory);
        }
    }
};

int compare(const Sums& sums, const MomentSource& source, int64_t matrix, MomentPart which,
            const Trust& trust) {
    const int64_t n = source.n();
    const std::vector<double> moment = source.trusted(matrix, which, trust);
    const FeedbackBasis wanted = make_basis(moment.data(), n, kDamping);
    const std::vector<double> layer = layer_mean(sums, n, which);
    const int64_t at = matrix * packed_size(n);
    const cuda::MomentRecipe recipe{
        sums.total.data() + at,
        sums.part.data() + at,
        layer.data(),
        which == MomentPart::all,
        which == MomentPart::rest,
        trust.layer_tokens,
        static_cast<double>(source.count(matrix, which)) + trust.layer_tokens,
        1.0 - trust.shrink};
    const Twin twin(recipe, static_cast<int>(n));
    int n_differ = twin.failed;
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            const auto element = static_cast<size_t>(i * n + j);
            const double dense = cuda::element_of(recipe, i, j) + (i == j ? twin.added : 0.0);
            if (static_cast<float>(dense) != wanted.moment[element]) ++n_differ;
            const float root = j <= i ? static_cast<float>(twin.root[element]) : 0.0f;
            if (root != wanted.root[element]) ++n_differ;
        }
    }
    std::vector<float> shared(static_cast<size_t>(cuda::FactorMemory(nullptr).n_floats));
    for (const int size : {8, 16, 32}) {
        const BlockBasis blocks = make_blocks(wanted, size);
        std::vector<float> root(blocks.root.size()), inverse(root);
        int failed = 0;
        for (int64_t first = 0; first < n; first += size) {
            cuda::invert_block(cuda::Block{64}, wanted.moment.data(), static_cast<int>(n),
                               static_cast<int>(first), size, root.data() + first * size,
                               inverse.data() + first * size, &failed,
                               cuda::FactorMemory(shared.data()));
        }
        if (failed != 0 || root != blocks.root || inverse != blocks.inverse) ++n_differ;
    }
    return n_differ;
}

}  // namespace

int main(int argc, char** argv) {
    const bool seeded = argc == 3 && std::string(argv[1]) == "--seed";
    std::mt19937 random(seeded ? static_cast<unsigned>(std::atoi(argv[2])) : 1u);
    int in_all = 0;
    for (const int64_t n : {32, 64, 224, 320}) {
        const Sums sums = some_sums(n, random);
        const MomentSource source(n, kMatrices, sums.total.data(), sums.part.data(),
                                  sums.counts.data(), sums.part_counts.data());
        int n_differ = 0;
        for (const MomentPart which : {MomentPart::all, MomentPart::part, MomentPart::rest}) {
            for (int64_t matrix = 0; matrix < kMatrices; ++matrix) {
                n_differ += compare(sums, source, matrix, which, Trust{0.2, 512.0});
            }
            n_differ += compare(sums, source, 0, which, Trust{});
        }
        std::printf("columns %d differ %d\n", static_cast<int>(n), n_differ);
        in_all += n_differ;
    }
    // A moment of nothing, and nothing to blend it with.
    const Sums none{std::vector<float>(static_cast<size_t>(packed_size(32))), {}, {}, {}};
    const cuda::MomentRecipe nothing{
        none.total.data(), none.total.data(), nullptr, true, false, 0.0, 0.0, 1.0};
    if (Twin(nothing, 32).failed == 0) ++in_all;
    return in_all == 0 ? 0 : 1;
}
