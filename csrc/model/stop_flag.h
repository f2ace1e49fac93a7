// One thread says stop, another one, deep in a computation, hears it.
#pragma once

#include <atomic>

namespace apex {

class StopFlag {
  public:
    void set() { stopped_.store(true, std::memory_order_relaxed); }
    bool is_set() const { return stopped_.load(std::memory_order_relaxed); }

  private:
    std::atomic<bool> stopped_{false};
};

}  // namespace apex
