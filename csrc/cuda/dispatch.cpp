#include "cuda/all_types.cuh"
#include "cuda/rows_job.h"

namespace apex::cuda {

cudaError_t launch_rows(ggml_type type, bool with_imatrix, const RowsJob& job,
                        cudaStream_t stream) {
    cudaError_t result = cudaErrorNotSupported;
    visit_type(type, with_imatrix,
               [&](auto tag) { result = launch_rows<typename decltype(tag)::Type>(job, stream); });
    return result;
}

bool has_kernel(ggml_type type, bool with_imatrix) {
    return visit_type(type, with_imatrix, [](auto) {});
}

}  // namespace apex::cuda
