// Threads that share one queue of numbered units; the first error, by unit number, wins.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace apex {

class WorkerGroup {
  public:
    // Each thread makes its own state with make_worker and calls the result for one unit after
    // another until the units run out, one fails, or stop() is called. Units are handed out in
    // order, so every unit below a failed one has been run to its end: the error that is reported
    // does not depend on timing.
    //
    // No more threads than units are started, and fewer where the system refuses; Error if it
    // refuses the first. Every thread calls on_idle as its last act.
    using Worker = std::function<void(int64_t unit)>;
    WorkerGroup(
        int n_threads, int64_t n_units, const std::function<Worker()>& make_worker,
        const std::function<void()>& on_idle = [] {});

    ~WorkerGroup() { stop(); }
    WorkerGroup(const WorkerGroup&) = delete;
    WorkerGroup& operator=(const WorkerGroup&) = delete;

    bool running() const { return n_running_.load() > 0; }

    // Waits for the threads and rethrows the error of the lowest failed unit.
    void join();

    // Lets each thread finish the unit it is at and waits for that. Like join(), safe to call from
    // several threads at once.
    void stop();

  private:
    void run(const std::function<Worker()>& make_worker, int64_t n_units);
    void record_failure(int64_t unit);
    void join_threads();

    std::atomic<bool> stop_{false};
    std::atomic<int64_t> next_unit_{0};
    std::atomic<int> n_running_{0};
    std::mutex join_mutex_;
    std::mutex failure_mutex_;
    int64_t failed_unit_ = INT64_MAX;
    std::exception_ptr failure_;
    std::vector<std::thread> threads_;
};

// work(lane, unit) for all units, a thread a lane: what a lane holds is used by one thread. Throws
// as join().
template <typename Lanes, typename Work>
void run_lanes(Lanes& lanes, int64_t n_units, const Work& work) {
    std::atomic<size_t> next_lane{0};
    WorkerGroup workers(static_cast<int>(lanes.size()), n_units, [&]() -> WorkerGroup::Worker {
        auto& lane = lanes[next_lane.fetch_add(1)];
        return [&work, &lane](int64_t unit) { work(lane, unit); };
    });
    workers.join();
}

}  // namespace apex
