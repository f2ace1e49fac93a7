#include "bench/timed_rows.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "core/error.h"

namespace apex {
namespace {

// Threads that wait for a common start; none begins before all are there.
class Start {
  public:
    explicit Start(int n_threads) : n_missing_(n_threads) {}

    // False where the start was called off.
    bool wait() {
        n_missing_.fetch_sub(1);
        while (n_missing_.load() > 0 && !called_off_.load()) std::this_thread::yield();
        return !called_off_.load();
    }
    void call_off() { called_off_.store(true); }

  private:
    std::atomic<int> n_missing_;
    std::atomic<bool> called_off_{false};
};

}  // namespace

TimedRows::TimedRows(int64_t n_rows, int64_t unit, int n_threads) : unit_(unit) {
    if (n_threads < 1 || unit < 1 || n_rows < n_threads) {
        fail<InvalidArgument>("expected 1 to ", n_rows, " threads for ", n_rows, " rows, found ",
                              n_threads);
    }
    for (int64_t i = 0; i < n_threads; ++i) {
        Slice slice;
        slice.begin = slice.next = i * n_rows / n_threads;
        slice.end = (i + 1) * n_rows / n_threads;
        slices_.push_back(slice);
    }
}

TimedRows::Sample TimedRows::run(const Work& work, double seconds,
                                 const std::function<bool()>& stopped) {
    const auto limit =
        std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    on_all_threads([&](Slice& slice) {
        slice.n_done = 0;
        slice.began = slice.ended = Clock::now();
        while (slice.ended - slice.began < limit) {
            if (stopped()) fail<Cancelled>("the benchmark was stopped");
            const int64_t end = std::min(slice.next + unit_, slice.end);
            work(slice.next, end);
            slice.n_done += end - slice.next;
            slice.complete |= end == slice.end;
            slice.next = end == slice.end ? slice.begin : end;
            slice.ended = Clock::now();
        }
    });
    Sample sample;
    auto began = slices_[0].began, ended = slices_[0].ended;
    for (const Slice& slice : slices_) {
        sample.n_rows += slice.n_done;
        began = std::min(began, slice.began);
        ended = std::max(ended, slice.ended);
    }
    sample.nanoseconds =
        std::chrono::duration_cast<std::chrono::nanoseconds>(ended - began).count();
    return sample;
}

void TimedRows::visit_all(const Work& work, const std::function<bool()>& stopped) {
    on_all_threads([&](Slice& slice) {
        for (int64_t begin = slice.begin; begin < slice.end; begin += unit_) {
            if (stopped()) fail<Cancelled>("the benchmark was stopped");
            work(begin, std::min(begin + unit_, slice.end));
        }
    });
}

void TimedRows::on_all_threads(const std::function<void(Slice&)>& body) {
    Start start(static_cast<int>(slices_.size()));
    std::vector<std::thread> threads;
    std::exception_ptr failure;
    std::mutex mutex;
    const auto record_failure = [&] {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!failure) failure = std::current_exception();
    };
    try {
        for (Slice& slice : slices_) {
            threads.emplace_back([&] {
                if (!start.wait()) return;
                try {
                    body(slice);
                } catch (...) {
                    record_failure();
                }
            });
        }
    } catch (const std::system_error&) {
        start.call_off();
        record_failure();
    }
    for (std::thread& thread : threads) thread.join();
    if (failure) std::rethrow_exception(failure);
}

bool TimedRows::was_visited(int64_t row) const {
    for (const Slice& slice : slices_) {
        if (row >= slice.begin && row < slice.end) return slice.complete || row < slice.next;
    }
    return false;
}

}  // namespace apex
