// Searches with error feedback, launched step by step (search_steps.cuh).
#include "cuda/scalar_search.h"
#include "cuda/search_steps.cuh"

namespace apex::cuda {
namespace {

template <SearchStep kStep, int kBlock, bool kBook>
__global__ void __launch_bounds__(kSearchThreads, 2)
    panel_kernel(const __grid_constant__ SearchJob job, int panel, int pass) {
    const SearchPlace place{static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),
                            static_cast<int>(blockIdx.z), panel, pass};
    search_panel<kStep, kBlock, kBook>(Block{}, job, place, nullptr);
}

template <SearchStep kStep>
__global__ void __launch_bounds__(kSearchThreads, 2)
    product_kernel(const __grid_constant__ SearchJob job, int panel, int pass) {
    __shared__ ProductMemory memory;
    const SearchPlace place{static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),
                            static_cast<int>(blockIdx.z), panel, pass};
    multiply_panel<kStep>(Block{}, job, place, memory);
}

using SearchKernel = void (*)(SearchJob, int, int);

template <int kBlock, bool kBook>
SearchKernel kernel_of(SearchStep step) {
    switch (step) {
#define APEX_PANEL_STEP(name) \
    case SearchStep::name:    \
        return panel_kernel<SearchStep::name, kBlock, kBook>;
        APEX_PANEL_STEP(read)
        APEX_PANEL_STEP(feed)
        APEX_PANEL_STEP(differ)
        APEX_PANEL_STEP(refine)
        APEX_PANEL_STEP(refit)
        APEX_PANEL_STEP(write)
#undef APEX_PANEL_STEP
#define APEX_PRODUCT_STEP(name) \
    case SearchStep::name:      \
        return product_kernel<SearchStep::name>;
        APEX_PRODUCT_STEP(spread_errors)
        APEX_PRODUCT_STEP(set_gradient)
        APEX_PRODUCT_STEP(spread_changes)
        APEX_PRODUCT_STEP(spread_scales)
#undef APEX_PRODUCT_STEP
    }
    return nullptr;
}

SearchKernel kernel_for(const ScalarFormat& format, SearchStep step) {
    if (format.has_code_book) return kernel_of<32, true>(step);
    return format.block == 32 ? kernel_of<32, false>(step) : kernel_of<16, false>(step);
}

}  // namespace

cudaError_t launch_search(const SearchJob& job, int n_bases, cudaStream_t stream) {
    const PanelMemory memory(job, job.format.block, nullptr);
    const size_t panel_bytes = static_cast<size_t>(memory.n_floats) * sizeof(float);
    int device = 0, most_bytes = 0;
    cudaError_t result = cudaGetDevice(&device);
    if (result != cudaSuccess) return result;
    result = cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    search_in_steps(job, [&](SearchStep step, int panel, int pass) {
        if (result != cudaSuccess) return;
        const SearchShape shape = shape_of(step, job, panel);
        const SearchKernel kernel = kernel_for(job.format, step);
        const size_t bytes = is_product(step) ? 0 : panel_bytes;
        if (bytes > 0 && pass == 0 && panel == 0) {
            result = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          most_bytes);
            if (result != cudaSuccess) return;
        }
        const dim3 grid(static_cast<unsigned>(shape.x), static_cast<unsigned>(shape.y),
                        static_cast<unsigned>(n_bases));
        kernel<<<grid, kSearchThreads, bytes, stream>>>(job, panel, pass);
        result = cudaGetLastError();
    });
    return result;
}

}  // namespace apex::cuda
