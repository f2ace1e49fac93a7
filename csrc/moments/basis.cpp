#include "moments/basis.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/simd_clones.h"

namespace apex {
namespace {

// Blocks are damped a little more: they are inverted in their own right.
constexpr double kBlockDamping = 1e-6;

// y -= factor * x
APEX_SIMD_CLONES
void subtract(const double* x, double factor, int64_t n, double* y) {
    for (int64_t i = 0; i < n; ++i) y[i] -= factor * x[i];
}

// T lower triangular with T^T T = matrix takes the place of its lower triangle.
bool reverse_cholesky(double* matrix, int64_t n) {
    for (int64_t j = n - 1; j >= 0; --j) {
        double* row = matrix + j * n;
        if (!(row[j] > 0.0) || !std::isfinite(row[j])) return false;
        const double pivot = std::sqrt(row[j]);
        for (int64_t i = 0; i < j; ++i) row[i] /= pivot;
        row[j] = pivot;
        for (int64_t i = 0; i < j; ++i) subtract(row, row[i], i + 1, matrix + i * n);
    }
    return true;
}

double mean_diagonal(const double* matrix, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += matrix[i * n + i];
    return sum / static_cast<double>(n);
}

}  // namespace

bool invert_root(std::vector<double> matrix, int64_t n, std::vector<double>& root) {
    if (!reverse_cholesky(matrix.data(), n)) return false;
    root.assign(static_cast<size_t>(n * n), 0.0);
    for (int64_t i = 0; i < n; ++i) {
        double* row = root.data() + i * n;
        const double* factors = matrix.data() + i * n;
        row[i] = 1.0;
        for (int64_t k = 0; k < i; ++k) subtract(root.data() + k * n, factors[k], k + 1, row);
        for (int64_t k = 0; k <= i; ++k) row[k] /= factors[i];
    }
    return true;
}

FeedbackBasis make_basis(const double* moment, int64_t n, double damping) {
    std::vector<double> damped(moment, moment + n * n);
    const double added = damping * mean_diagonal(moment, n);
    for (int64_t i = 0; i < n; ++i) damped[static_cast<size_t>(i * n + i)] += added;
    std::vector<double> root;
    if (!invert_root(damped, n, root)) {
        fail<InvalidArgument>("a second moment of ", n, " columns, damped by ", damping,
                              ", is not positive definite");
    }
    FeedbackBasis basis;
    basis.n = n;
    basis.moment.assign(damped.begin(), damped.end());
    basis.root.assign(root.begin(), root.end());
    for (int64_t j = 0; j < n; ++j) {
        const double diagonal = root[static_cast<size_t>(j * n + j)];
        basis.importance.push_back(static_cast<float>(1.0 / (diagonal * diagonal)));
    }
    return basis;
}

BlockBasis make_blocks(const FeedbackBasis& basis, int64_t size) {
    BlockBasis blocks;
    blocks.size = size;
    const auto area = static_cast<size_t>(size * size);
    for (int64_t first = 0; first + size <= basis.n; first += size) {
        std::vector<double> block(area), root;
        for (int64_t i = 0; i < size; ++i) {
            const float* row = basis.moment.data() + (first + i) * basis.n + first;
            std::copy(row, row + size, block.begin() + i * size);
        }
        const double added = kBlockDamping * mean_diagonal(block.data(), size);
        for (int64_t i = 0; i < size; ++i) block[static_cast<size_t>(i * size + i)] += added;
        if (!invert_root(block, size, root)) fail<InvalidArgument>("a block is not positive");
        for (int64_t i = 0; i < size; ++i) {
            for (int64_t j = 0; j < size; ++j) {
                blocks.root.push_back(static_cast<float>(root[static_cast<size_t>(j * size + i)]));
                double sum = 0.0;
                for (int64_t k = 0; k <= std::min(i, j); ++k) {
                    sum += root[static_cast<size_t>(i * size + k)] *
                           root[static_cast<size_t>(j * size + k)];
                }
                blocks.inverse.push_back(static_cast<float>(sum));
            }
        }
    }
    return blocks;
}

}  // namespace apex
