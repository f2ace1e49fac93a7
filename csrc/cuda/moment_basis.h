// The launches that make bases from second moments (moments/basis.h). Pointers to the device's
// memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "cuda/moment_recipe.h"

namespace apex::cuda {

inline constexpr int kMaxBases = 4;

// Some bases of rows of n, one behind the other.
struct BasisBuffers {
    double* matrix;  // n x n each: the damped moment, its factor
    double* root;
    double* added;  // one each
    float* moment;  // n x n each, as SearchBasis has them
    float* root_transposed;
    float* importance;  // n each
    float* block_root;  // n x block each
    float* block_inverse;
    int* failed;  // set to 1 where a moment is not positive definite
};

cudaError_t launch_bases(const MomentRecipe* recipes, int n_bases, int n, double damping, int block,
                         const BasisBuffers& buffers, cudaStream_t stream);

// n x n, as it is.
cudaError_t launch_moment(const MomentRecipe& recipe, int n, float* moment, cudaStream_t stream);

}  // namespace apex::cuda
