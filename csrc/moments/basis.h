// What error feedback needs of a second moment: the moment itself and a root of its inverse.
#pragma once

#include <cstdint>
#include <vector>

namespace apex {

// Of a damped n x n moment H, row after row.
struct FeedbackBasis {
    int64_t n = 0;
    std::vector<float> moment;  // H
    // L, lower triangular, with H^-1 = L L^T: an error e in column j, in units of L[j, j], is made
    // good by - e L[k, j] in the columns k > j.
    std::vector<float> root;
    // Of each column, once those behind it make good what they can: 1 / L[j, j]^2.
    std::vector<float> importance;
};

// The same of the square blocks along the diagonal, for one size of blocks.
struct BlockBasis {
    int64_t size = 0;
    std::vector<float> root;     // of each block, upper triangular: the transpose of its L
    std::vector<float> inverse;  // of each block
};

// moment: dense, symmetric, n x n, not negative definite. damping is a share of the mean of its
// diagonal. Throws InvalidArgument where the damped moment is not positive definite.
FeedbackBasis make_basis(const double* moment, int64_t n, double damping);
BlockBasis make_blocks(const FeedbackBasis& basis, int64_t size);

// L of a dense symmetric positive definite matrix, in double; false where it is not.
bool invert_root(std::vector<double> matrix, int64_t n, std::vector<double>& root);

}  // namespace apex
