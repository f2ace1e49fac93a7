// Rows gone through by several threads, again and again, against the clock.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

namespace apex {

// Calls work(begin, end) for pieces of at most unit rows of [0, n_rows). Each thread has a slice of
// its own and goes on in it where the sample before ended, so that a working set larger than the
// caches stays larger than the caches however short a sample is.
class TimedRows {
  public:
    using Work = std::function<void(int64_t begin, int64_t end)>;

    // Throws InvalidArgument where there are fewer rows than threads.
    TimedRows(int64_t n_rows, int64_t unit, int n_threads);

    struct Sample {
        int64_t n_rows = 0;
        int64_t nanoseconds = 0;  // from the common start to the end of the last thread
    };

    // Goes on until seconds have passed; the unit that a thread is at then is finished and counted.
    // Throws what work throws, Cancelled, Error where a thread cannot be started.
    Sample run(const Work& work, double seconds, const std::function<bool()>& stopped);

    // Each row once, by the thread that will work on it: so its memory lies near that thread.
    void visit_all(const Work& work, const std::function<bool()>& stopped);

    // True for rows that work was called for by run().
    bool was_visited(int64_t row) const;

  private:
    using Clock = std::chrono::steady_clock;

    struct Slice {
        int64_t begin = 0, end = 0, next = 0;
        bool complete = false;
        int64_t n_done = 0;  // of the last sample
        Clock::time_point began, ended;
    };

    void on_all_threads(const std::function<void(Slice&)>& body);

    std::vector<Slice> slices_;
    int64_t unit_;
};

}  // namespace apex
