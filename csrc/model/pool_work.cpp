#include "model/pool_work.h"

#include "core/error.h"

namespace apex {
namespace {

constexpr size_t kGraphNodes = 8;  // one is used

}  // namespace

PoolWork::PoolWork(std::shared_ptr<ThreadPool> pool) : pool_(std::move(pool)) {
    ggml_init_params params{};
    params.mem_size = 2 * ggml_tensor_overhead() + ggml_graph_overhead_custom(kGraphNodes, false) +
                      GGML_MEM_ALIGN * 4;
    arena_.reset(ggml_init(params));
    if (!arena_) fail<ModelError>("ggml cannot allocate ", params.mem_size, " bytes");
    graph_ = ggml_new_graph_custom(arena_.get(), kGraphNodes, false);
    ggml_tensor* node = ggml_custom_4d(arena_.get(), GGML_TYPE_F32, 1, 1, 1, 1, nullptr, 0,
                                       on_thread, GGML_N_TASKS_MAX, this);
    ggml_build_forward_expand(graph_, node);
}

void PoolWork::on_thread(ggml_tensor*, int thread, int n_threads, void* self) {
    (*static_cast<const PoolWork*>(self)->task_)(thread, n_threads);
}

void PoolWork::run(const Task& task) {
    task_ = &task;
    ggml_cplan plan = ggml_graph_plan(graph_, pool_->n_threads(), pool_->get());
    const ggml_status status = ggml_graph_compute(graph_, &plan);
    task_ = nullptr;
    if (status != GGML_STATUS_SUCCESS) fail<ModelError>("ggml's threads returned ", status);
}

}  // namespace apex
