#include "model/thread_pool.h"

#include <exception>
#include <vector>

#include "core/error.h"
#include "ggml-cpp.h"

namespace apex {
namespace {

// What the one node of a graph calls on every thread.
struct Work {
    const std::function<void(int, int)>& call;
    std::vector<std::exception_ptr> errors;

    static void run(ggml_tensor*, int i, int n, void* self) {
        auto* work = static_cast<Work*>(self);
        try {
            work->call(i, n);
        } catch (...) {
            // Not through ggml's frames.
            work->errors[static_cast<size_t>(i)] = std::current_exception();
        }
    }
};

}  // namespace

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

void ThreadPool::run(const std::function<void(int, int)>& work) {
    constexpr size_t kNodes = 1;
    const size_t size = ggml_tensor_overhead() + ggml_graph_overhead_custom(kNodes, false);
    const ggml_context_ptr context(ggml_init({size, nullptr, true}));
    if (!context) fail<ModelError>("ggml cannot make a graph of one node");
    Work state{work, std::vector<std::exception_ptr>(static_cast<size_t>(n_threads_))};
    ggml_tensor* node = ggml_custom_4d(context.get(), GGML_TYPE_F32, 1, 1, 1, 1, nullptr, 0,
                                       &Work::run, GGML_N_TASKS_MAX, &state);
    ggml_cgraph* graph = ggml_new_graph_custom(context.get(), kNodes, false);
    ggml_build_forward_expand(graph, node);
    ggml_cplan plan = ggml_graph_plan(graph, n_threads_, pool_.get());
    ggml_graph_compute(graph, &plan);
    for (const std::exception_ptr& error : state.errors) {
        if (error) std::rethrow_exception(error);
    }
}

}  // namespace apex
