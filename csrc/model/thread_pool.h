// ggml's threads, kept between graphs. Without one, every part of a graph starts and joins its own.
#pragma once

#include <functional>
#include <memory>

#include "ggml-cpu.h"

namespace apex {

class ThreadPool {
  public:
    // poll: how long idle threads spin before they sleep, 0 to 100; 50 is ggml's own default.
    // Spin little where threads of our own work between the nodes of a graph.
    explicit ThreadPool(int n_threads, uint32_t poll = 50);

    int n_threads() const { return n_threads_; }
    ggml_threadpool* get() const { return pool_.get(); }

    // Calls work(i, n) on n threads of the pool, i from 0, and waits; the caller's thread is one of
    // them. Rethrows the error of the lowest i. Not while a graph is computed on the pool.
    void run(const std::function<void(int, int)>& work);

  private:
    struct Free {
        void operator()(ggml_threadpool* pool) const { ggml_threadpool_free(pool); }
    };
    int n_threads_;
    std::unique_ptr<ggml_threadpool, Free> pool_;
};

}  // namespace apex
