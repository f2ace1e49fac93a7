// Work of our own on ggml's threads, between the nodes of a graph.
//
// Threads beside ggml's would wait for a core: ggml's spin while a node is looked at. So the work
// goes to them, as a graph of one custom node.
#pragma once

#include <functional>
#include <memory>

#include "ggml-cpp.h"
#include "model/thread_pool.h"

namespace apex {

class PoolWork {
  public:
    // Called once on every thread with its number and their count; must not throw.
    using Task = std::function<void(int thread, int n_threads)>;

    explicit PoolWork(std::shared_ptr<ThreadPool> pool);
    PoolWork(const PoolWork&) = delete;
    PoolWork& operator=(const PoolWork&) = delete;

    // Returns when all threads are through. The pool must be idle, as it is in EvalHook::observe.
    void run(const Task& task);

  private:
    static void on_thread(ggml_tensor* node, int thread, int n_threads, void* self);

    std::shared_ptr<ThreadPool> pool_;
    ggml_context_ptr arena_;
    ggml_cgraph* graph_ = nullptr;
    const Task* task_ = nullptr;
};

}  // namespace apex
