#include "model/thread_pool.h"

#include "core/error.h"

namespace apex {

ThreadPool::ThreadPool(int n_threads, uint32_t poll) : n_threads_(n_threads) {
    if (n_threads < 1 || n_threads > GGML_MAX_N_THREADS) {
        fail<InvalidArgument>("n_threads: expected 1 to ", GGML_MAX_N_THREADS, ", found ",
                              n_threads);
    }
    ggml_threadpool_params params;
    ggml_threadpool_params_init(&params, n_threads);
    params.poll = poll;
    pool_.reset(ggml_threadpool_new(&params));
    if (!pool_) fail<ModelError>("ggml cannot start ", n_threads, " threads");
}

}  // namespace apex
