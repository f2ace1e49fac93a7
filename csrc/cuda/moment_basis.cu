// Damped moments, the roots of their inverses, and what searches need of them (moment_basis.cuh).
#include "cuda/moment_basis.cuh"
#include "cuda/moment_basis.h"

namespace apex::cuda {
namespace {

struct BasisJob {
    MomentRecipe recipes[kMaxBases];
    BasisBuffers to;
    int n, block;
    double damping;

    __device__ double* matrix(unsigned basis) const { return to.matrix + int64_t{basis} * n * n; }
    __device__ double* root(unsigned basis) const { return to.root + int64_t{basis} * n * n; }
};

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) damping_kernel(const __grid_constant__ BasisJob job) {
    find_damping(Block{}, job.recipes[blockIdx.x], job.n, job.damping, job.to.added + blockIdx.x,
                 FactorMemory(nullptr));
}

// A row of the lower triangle a block.
__global__ void __launch_bounds__(kThreads) fill_kernel(const __grid_constant__ BasisJob job) {
    const int64_t i = blockIdx.x, n = job.n;
    const MomentRecipe& recipe = job.recipes[blockIdx.y];
    float* moment = job.to.moment + blockIdx.y * n * n;
    for (int64_t j = threadIdx.x; j <= i; j += kThreads) {
        double value = element_of(recipe, i, j);
        if (job.to.matrix != nullptr) {
            if (i == j) value += job.to.added[blockIdx.y];
            job.matrix(blockIdx.y)[i * n + j] = value;
        }
        moment[i * n + j] = moment[j * n + i] = static_cast<float>(value);
    }
}

__global__ void __launch_bounds__(kFactorThreads)
    triangle_kernel(const __grid_constant__ BasisJob job, int begin, int end) {
    factor_triangle(Block{}, job.matrix(blockIdx.x), job.n, begin, end, job.to.failed,
                    FactorMemory(nullptr));
}

__global__ void __launch_bounds__(kFactorThreads)
    panel_kernel(const __grid_constant__ BasisJob job, int begin, int end) {
    factor_panel(Block{}, job.matrix(blockIdx.y), job.n, begin, end,
                 static_cast<int>(blockIdx.x) * kFactor, FactorMemory(nullptr));
}

__global__ void __launch_bounds__(kFactorThreads, 2)
    update_kernel(const __grid_constant__ BasisJob job, int begin, int end) {
    int i = 0;
    while (packed_size(i + 1) <= int64_t{blockIdx.x}) ++i;
    const int j = static_cast<int>(blockIdx.x - packed_size(i));
    update_tile(Block{}, job.matrix(blockIdx.y), job.n, begin, end, i * kFactor, j * kFactor,
                FactorMemory(nullptr));
}

__global__ void __launch_bounds__(kFactorThreads, 2)
    inverse_kernel(const __grid_constant__ BasisJob job) {
    invert_columns(Block{}, job.matrix(blockIdx.y), job.n, static_cast<int>(blockIdx.x) * kFactor,
                   job.root(blockIdx.y), FactorMemory(nullptr));
}

// A row of the transposed root a block.
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ BasisJob job) {
    const int64_t k = blockIdx.x, n = job.n;
    const double* root = job.root(blockIdx.y);
    float* transposed = job.to.root_transposed + (blockIdx.y * n + k) * n;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
        transposed[i] = i < k ? 0.0f : static_cast<float>(root[i * n + k]);
    }
    if (threadIdx.x != 0) return;
    const double diagonal = root[k * n + k];
    job.to.importance[blockIdx.y * n + k] = static_cast<float>(1.0 / (diagonal * diagonal));
}

constexpr int kBlockThreads = 64;

__global__ void __launch_bounds__(kBlockThreads)
    blocks_kernel(const __grid_constant__ BasisJob job) {
    const int64_t n = job.n, at = (blockIdx.y * n + int64_t{blockIdx.x} * job.block) * job.block;
    invert_block(Block{}, job.to.moment + blockIdx.y * n * n, job.n,
                 static_cast<int>(blockIdx.x) * job.block, job.block, job.to.block_root + at,
                 job.to.block_inverse + at, job.to.failed, FactorMemory(nullptr));
}

// Of every kernel with FactorMemory, before its first launch on a device.
cudaError_t allow_memory(size_t bytes) {
    const auto size = static_cast<int>(bytes);
    const cudaFuncAttribute attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    for (const void* kernel :
         {reinterpret_cast<const void*>(damping_kernel),
          reinterpret_cast<const void*>(triangle_kernel),
          reinterpret_cast<const void*>(panel_kernel), reinterpret_cast<const void*>(update_kernel),
          reinterpret_cast<const void*>(inverse_kernel),
          reinterpret_cast<const void*>(blocks_kernel)}) {
        const cudaError_t result = cudaFuncSetAttribute(kernel, attribute, size);
        if (result != cudaSuccess) return result;
    }
    return cudaSuccess;
}

unsigned tiles_of(int n) {
    return static_cast<unsigned>((n + kFactor - 1) / kFactor);
}

void launch_factor(const BasisJob& job, unsigned n_bases, size_t bytes, cudaStream_t stream) {
    for (int end = job.n; end > 0;) {
        const int begin = end > kFactor ? end - kFactor : 0;
        triangle_kernel<<<n_bases, kFactorThreads, bytes, stream>>>(job, begin, end);
        const unsigned tiles = tiles_of(begin);
        if (tiles > 0) {
            panel_kernel<<<dim3(tiles, n_bases), kFactorThreads, bytes, stream>>>(job, begin, end);
            const auto in_triangle = static_cast<unsigned>(packed_size(tiles));
            update_kernel<<<dim3(in_triangle, n_bases), kFactorThreads, bytes, stream>>>(job, begin,
                                                                                         end);
        }
        end = begin;
    }
}

}  // namespace

cudaError_t launch_bases(const MomentRecipe* recipes, int n_bases, int n, double damping, int block,
                         const BasisBuffers& buffers, cudaStream_t stream) {
    BasisJob job{};
    for (int i = 0; i < n_bases; ++i) job.recipes[i] = recipes[i];
    job.to = buffers;
    job.n = n;
    job.block = block;
    job.damping = damping;
    const auto count = static_cast<unsigned>(n_bases), rows = static_cast<unsigned>(n);
    const size_t bytes = static_cast<size_t>(FactorMemory(nullptr).n_floats) * sizeof(float);
    const cudaError_t result = allow_memory(bytes);
    if (result != cudaSuccess) return result;
    damping_kernel<<<count, kThreads, bytes, stream>>>(job);
    fill_kernel<<<dim3(rows, count), kThreads, 0, stream>>>(job);
    launch_factor(job, count, bytes, stream);
    inverse_kernel<<<dim3(tiles_of(n), count), kFactorThreads, bytes, stream>>>(job);
    finish_kernel<<<dim3(rows, count), kThreads, 0, stream>>>(job);
    blocks_kernel<<<dim3(rows / static_cast<unsigned>(block), count), kBlockThreads, bytes,
                    stream>>>(job);
    return cudaGetLastError();
}

cudaError_t launch_moment(const MomentRecipe& recipe, int n, float* moment, cudaStream_t stream) {
    BasisJob job{};
    job.recipes[0] = recipe;
    job.to.moment = moment;
    job.n = n;
    fill_kernel<<<dim3(static_cast<unsigned>(n), 1), kThreads, 0, stream>>>(job);
    return cudaGetLastError();
}

}  // namespace apex::cuda
