// Routed rows times their experts' matrices in one launch: a block computes 64 rows of one expert
// times 128 of its matrix' rows on the tensor cores, three tiles of columns under way.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/routed_products.h"
#include "cuda/squares.cuh"

namespace apex::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kStages = 3;
constexpr int kChunk = 8;  // values of 16 bits in the 16 bytes that are copied at once
constexpr int kChunks = kProductColumns / kChunk;
constexpr int kInputChunks = kProductRows * kChunks;
constexpr int kMatrixChunks = kProductOutputs * kChunks;
constexpr int kStageChunks = kInputChunks + kMatrixChunks;
constexpr int kSharedBytes = kStages * kStageChunks * 16;

__device__ uint16_t round_to(float x, __half*) {
    return __half_as_ushort(__float2half_rn(x));
}

__device__ uint16_t round_to(float x, __nv_bfloat16*) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

template <typename T>
__global__ void __launch_bounds__(256) round_rows_kernel(const DeviceInput rows, uint16_t* to) {
    const int64_t row = blockIdx.x;
    const float* from = row_at(rows, row % rows.ne[1], row / rows.ne[1], 0);
    to += row * rows.ne[0];
    for (int64_t i = threadIdx.x; i < rows.ne[0]; i += blockDim.x) {
        to[i] = round_to(from[i], static_cast<T*>(nullptr));
    }
}

__global__ void __launch_bounds__(kMaxRoutedExperts)
    list_tiles_kernel(const RoutedRows sorted, int n_experts, ProductTile* tiles, int n_tiles) {
    __shared__ int begins[kMaxRoutedExperts + 1];
    const auto expert = static_cast<int>(threadIdx.x);
    const int n_rows = expert < n_experts ? sorted.counts[expert] : 0;
    const int n = (n_rows + kProductRows - 1) / kProductRows;
    begins[expert] = n;
    __syncthreads();
    if (expert == 0) {
        int begin = 0;
        for (int i = 0; i < n_experts; ++i) {
            const int count = begins[i];
            begins[i] = begin;
            begin += count;
        }
        begins[kMaxRoutedExperts] = begin;
    }
    __syncthreads();
    for (int i = 0; i < n && begins[expert] + i < n_tiles; ++i) {
        tiles[begins[expert] + i] = {expert, i * kProductRows};
    }
    for (int i = begins[kMaxRoutedExperts] + expert; i < n_tiles; i += kMaxRoutedExperts) {
        tiles[i] = {-1, 0};
    }
}

// --- tensor cores --------------------------------------------------------------------------------

__device__ unsigned shared_address(const void* at) {
    return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

// 16 bytes, or as many zeros.
__device__ void copy_chunk(uint4* to, const void* from, bool is_there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
}

__device__ void end_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int Pending>
__device__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

__device__ void load_matrices(unsigned (&to)[4], const uint4* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(from))
                 : "memory");
}

__device__ void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, __half*) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                         __nv_bfloat16*) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Where a chunk of a row lies: rows are shifted so that eight of one column meet in no bank.
__device__ int place_of(int row, int chunk) {
    return row * kChunks + (chunk ^ (row % kChunks));
}

// --- a block -------------------------------------------------------------------------------------

constexpr int kRowsApart = kThreads / kChunks;           // of a thread's chunks
constexpr int kInputCopies = kInputChunks / kThreads;    // a thread's
constexpr int kMatrixCopies = kMatrixChunks / kThreads;  // a thread's
constexpr int kWarpRows = kProductRows / 2;              // the block's warps are 2 x 2
constexpr int kWarpOutputs = kProductOutputs / 2;
constexpr int kRowSteps = kWarpRows / 16, kOutputSteps = kWarpOutputs / 8;

// Copies columns from global to shared memory.
struct Loader {
    const char* inputs[kInputCopies];
    bool is_row[kInputCopies];
    const char* matrix;
    size_t matrix_stride;

    __device__ void start(uint4* stage, int64_t column) const {
        const int row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
        const int64_t offset = (column + chunk * kChunk) * 2;
#pragma unroll
        for (int i = 0; i < kInputCopies; ++i) {
            copy_chunk(stage + place_of(row + i * kRowsApart, chunk), inputs[i] + offset,
                       is_row[i]);
        }
#pragma unroll
        for (int i = 0; i < kMatrixCopies; ++i) {
            copy_chunk(stage + kInputChunks + place_of(row + i * kRowsApart, chunk),
                       matrix + i * matrix_stride + offset, true);
        }
    }
};

template <typename T>
__device__ void multiply_stage(const uint4* stage, float (&sums)[kRowSteps][kOutputSteps][4]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = warp % 2 * kWarpRows, first_output = warp / 2 * kWarpOutputs;
    const uint4* matrix = stage + kInputChunks;
#pragma unroll
    for (int k = 0; k < kChunks; k += 2) {
        unsigned a[kRowSteps][4], b[kOutputSteps / 2][4];
#pragma unroll
        for (int i = 0; i < kRowSteps; ++i) {
            load_matrices(a[i], stage + place_of(first_row + 16 * i + lane % 16, k + lane / 16));
        }
#pragma unroll
        for (int i = 0; i < kOutputSteps / 2; ++i) {
            const int row = first_output + 16 * i + lane % 8 + lane / 16 * 8;
            load_matrices(b[i], matrix + place_of(row, k + lane / 8 % 2));
        }
#pragma unroll
        for (int i = 0; i < kRowSteps; ++i) {
#pragma unroll
            for (int j = 0; j < kOutputSteps; ++j) {
                multiply(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1],
                         static_cast<T*>(nullptr));
            }
        }
    }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    products_kernel(const DeviceRoutedProduct product, const char* rounded, const RoutedRows sorted,
                    const ProductTile* tiles) {
    extern __shared__ uint4 shared[];
    const ProductTile tile = tiles[blockIdx.y];
    if (tile.expert < 0) return;
    const DeviceInput& input = product.rows;
    const auto n_used = static_cast<uint32_t>(input.n_used);
    const uint32_t* rows = sorted.rows + sorted.begins[tile.expert] + tile.row;
    const int n_rows = min(sorted.counts[tile.expert] - tile.row, kProductRows);
    const int64_t n_columns = input.ne[0], first_output = int64_t{blockIdx.x} * kProductOutputs;

    Loader loader;
    const int own_row = threadIdx.x / kChunks;
#pragma unroll
    for (int i = 0; i < kInputCopies; ++i) {
        const int row = own_row + i * kRowsApart;
        loader.is_row[i] = row < n_rows;
        const uint32_t number = rows[loader.is_row[i] ? row : 0];
        const int64_t place =
            number / n_used * input.ne[1] + number % n_used % static_cast<uint32_t>(input.ne[1]);
        loader.inputs[i] = rounded + place * n_columns * 2;
    }
    loader.matrix = static_cast<const char*>(product.weights) +
                    tile.expert * static_cast<int64_t>(product.matrix_bytes) +
                    (first_output + own_row) * n_columns * 2;
    loader.matrix_stride = static_cast<size_t>(kRowsApart * n_columns) * 2;

    const auto n_steps = static_cast<int>(n_columns / kProductColumns);
    float sums[kRowSteps][kOutputSteps][4] = {};
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) {
        if (i < n_steps) loader.start(shared + i * kStageChunks, int64_t{i} * kProductColumns);
        end_copies();
    }
    for (int step = 0; step < n_steps; ++step) {
        wait_for_copies<kStages - 2>();
        __syncthreads();  // all threads' copies have arrived, and the oldest stage is free
        const int next = step + kStages - 1;
        if (next < n_steps) {
            loader.start(shared + next % kStages * kStageChunks, int64_t{next} * kProductColumns);
        }
        end_copies();
        multiply_stage<T>(shared + step % kStages * kStageChunks, sums);
    }

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t output = first_output + warp / 2 * kWarpOutputs + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2 * kRowSteps; ++i) {
        const int row = warp % 2 * kWarpRows + i * 8 + lane / 4;
        if (row >= n_rows) continue;
        const uint32_t number = rows[row];
        char* at = reinterpret_cast<char*>(product.result + output) +
                   number % n_used * product.result_nb[0] + number / n_used * product.result_nb[1];
#pragma unroll
        for (int j = 0; j < kOutputSteps; ++j) {
            const float* pair = sums[i / 2][j] + i % 2 * 2;
            *reinterpret_cast<float2*>(at + j * 8 * sizeof(float)) = make_float2(pair[0], pair[1]);
        }
    }
}

template <typename T>
cudaError_t launch_for(const DeviceRoutedProduct& product, const void* rounded,
                       const RoutedRows& sorted, const ProductTile* tiles, cudaStream_t stream) {
    const cudaError_t result = cudaFuncSetAttribute(
        products_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
    if (result != cudaSuccess) return result;
    const dim3 grid(static_cast<unsigned>(product.n_out / kProductOutputs),
                    static_cast<unsigned>(max_product_tiles(product.rows)));
    products_kernel<T><<<grid, kThreads, kSharedBytes, stream>>>(
        product, static_cast<const char*>(rounded), sorted, tiles);
    return cudaGetLastError();
}

}  // namespace

int64_t max_product_tiles(const DeviceInput& rows) {
    return rows.n_used * rows.n_tokens / kProductRows + rows.n_all_matrices();
}

cudaError_t launch_round_rows(const DeviceRoutedProduct& product, void* rounded,
                              cudaStream_t stream) {
    const auto n_rows = static_cast<unsigned>(product.rows.ne[1] * product.rows.ne[2]);
    auto* to = static_cast<uint16_t*>(rounded);
    if (product.type == GGML_TYPE_F16) {
        round_rows_kernel<__half><<<n_rows, 256, 0, stream>>>(product.rows, to);
    } else {
        round_rows_kernel<__nv_bfloat16><<<n_rows, 256, 0, stream>>>(product.rows, to);
    }
    return cudaGetLastError();
}

cudaError_t launch_list_tiles(const DeviceInput& rows, const RoutedRows& sorted, ProductTile* tiles,
                              cudaStream_t stream) {
    list_tiles_kernel<<<1, kMaxRoutedExperts, 0, stream>>>(
        sorted, static_cast<int>(rows.n_all_matrices()), tiles,
        static_cast<int>(max_product_tiles(rows)));
    return cudaGetLastError();
}

cudaError_t launch_products(const DeviceRoutedProduct& product, const void* rounded,
                            const RoutedRows& sorted, const ProductTile* tiles,
                            cudaStream_t stream) {
    return product.type == GGML_TYPE_F16
               ? launch_for<__half>(product, rounded, sorted, tiles, stream)
               : launch_for<__nv_bfloat16>(product, rounded, sorted, tiles, stream);
}

}  // namespace apex::cuda
