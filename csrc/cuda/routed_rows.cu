// A stable sort by expert: a block an expert goes over all rows twice, to count and to place them.
#include "cuda/routed_rows.h"
#include "cuda/squares.cuh"

namespace apex::cuda {
namespace {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

__global__ void __launch_bounds__(kThreads)
    count_rows_kernel(const DeviceInput input, int32_t* counts, int* failed) {
    const auto expert = static_cast<int32_t>(blockIdx.x);
    const uint32_t n = n_routed_rows(input);
    int count = 0;
    for (uint32_t begin = 0; begin < n; begin += kThreads) {
        const uint32_t i = begin + threadIdx.x;
        const int32_t number = i < n ? expert_of(input, i) : 0;
        if (expert == 0 && (number < 0 || number >= static_cast<int32_t>(gridDim.x))) *failed = 1;
        count += __syncthreads_count(i < n && number == expert);
    }
    if (threadIdx.x == 0) counts[expert] = count;
}

__global__ void __launch_bounds__(kMaxRoutedExperts)
    begin_rows_kernel(const int32_t* counts, int32_t* begins, int n_experts) {
    __shared__ int32_t shared[kMaxRoutedExperts];
    const auto expert = static_cast<int>(threadIdx.x);
    if (expert < n_experts) shared[expert] = counts[expert];
    __syncthreads();
    if (expert == 0) {
        int32_t begin = 0;
        for (int i = 0; i < n_experts; ++i) {
            const int32_t count = shared[i];
            shared[i] = begin;
            begin += count;
        }
    }
    __syncthreads();
    if (expert < n_experts) begins[expert] = shared[expert];
}

__global__ void __launch_bounds__(kThreads)
    place_rows_kernel(const DeviceInput input, const int32_t* begins, uint32_t* rows) {
    __shared__ int n_of_warp[kWarps];
    const auto expert = static_cast<int32_t>(blockIdx.x);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t n = n_routed_rows(input);
    uint32_t* next = rows + begins[expert];
    for (uint32_t begin = 0; begin < n; begin += kThreads) {
        const uint32_t i = begin + threadIdx.x;
        const bool is_own = i < n && expert_of(input, i) == expert;
        const unsigned votes = __ballot_sync(kWholeWarp, is_own);
        if (lane == 0) n_of_warp[warp] = __popc(votes);
        __syncthreads();
        int before = __popc(votes & ((1u << lane) - 1)), all = 0;
        for (int w = 0; w < kWarps; ++w) {
            if (w < warp) before += n_of_warp[w];
            all += n_of_warp[w];
        }
        if (is_own) next[before] = i;
        next += all;
        __syncthreads();  // before n_of_warp is written again
    }
}

}  // namespace

size_t routed_rows_bytes(const DeviceInput& input) {
    const auto n_experts = static_cast<size_t>(input.n_all_matrices());
    const auto n_rows = static_cast<size_t>(input.n_used * input.n_tokens);
    return 2 * n_experts * sizeof(int32_t) + n_rows * sizeof(uint32_t);
}

RoutedRows routed_rows_at(void* memory, const DeviceInput& input) {
    auto* counts = static_cast<int32_t*>(memory);
    int32_t* begins = counts + input.n_all_matrices();
    return {counts, begins, reinterpret_cast<uint32_t*>(begins + input.n_all_matrices())};
}

cudaError_t launch_sort_rows(const DeviceInput& input, const RoutedRows& rows, int* failed,
                             cudaStream_t stream) {
    const auto n_experts = static_cast<unsigned>(input.n_all_matrices());
    if (n_experts > kMaxRoutedExperts) return cudaErrorInvalidValue;
    count_rows_kernel<<<n_experts, kThreads, 0, stream>>>(input, rows.counts, failed);
    begin_rows_kernel<<<1, kMaxRoutedExperts, 0, stream>>>(rows.counts, rows.begins,
                                                           static_cast<int>(n_experts));
    place_rows_kernel<<<n_experts, kThreads, 0, stream>>>(input, rows.begins, rows.rows);
    return cudaGetLastError();
}

}  // namespace apex::cuda
