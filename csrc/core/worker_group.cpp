#include "core/worker_group.h"

#include <algorithm>
#include <system_error>

#include "core/error.h"

namespace apex {

WorkerGroup::WorkerGroup(int n_threads, int64_t n_units, const std::function<Worker()>& make_worker,
                         const std::function<void()>& on_idle) {
    const auto wanted = static_cast<int>(std::min<int64_t>(n_threads, n_units));
    threads_.reserve(static_cast<size_t>(wanted));
    for (int i = 0; i < wanted; ++i) {
        n_running_.fetch_add(1);
        try {
            threads_.emplace_back([this, make_worker, n_units, on_idle] {
                run(make_worker, n_units);
                on_idle();
            });
        } catch (const std::system_error& error) {
            n_running_.fetch_sub(1);
            if (threads_.empty()) fail<Error>("cannot start a thread: ", error.what());
            break;  // those that run do all the units
        }
    }
}

void WorkerGroup::run(const std::function<Worker()>& make_worker, int64_t n_units) {
    int64_t unit = -1;  // an error while a thread sets up comes before all units
    try {
        const Worker worker = make_worker();
        while (!stop_.load(std::memory_order_relaxed)) {
            unit = next_unit_.fetch_add(1);
            if (unit >= n_units) break;
            worker(unit);
        }
    } catch (...) {
        record_failure(unit);
    }
    n_running_.fetch_sub(1);
}

void WorkerGroup::record_failure(int64_t unit) {
    stop_ = true;
    const std::lock_guard<std::mutex> lock(failure_mutex_);
    if (unit < failed_unit_) {
        failed_unit_ = unit;
        failure_ = std::current_exception();
    }
}

void WorkerGroup::join_threads() {
    const std::lock_guard<std::mutex> lock(join_mutex_);
    for (auto& thread : threads_) {
        if (thread.joinable()) thread.join();
    }
}

void WorkerGroup::join() {
    join_threads();
    if (failure_) std::rethrow_exception(failure_);
}

void WorkerGroup::stop() {
    stop_.store(true, std::memory_order_relaxed);
    join_threads();
}

}  // namespace apex
