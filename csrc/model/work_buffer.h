// Parts of ggml's work buffer, each at the begin of a cache line.
#pragma once

#include <cstddef>
#include <cstdint>

#include "model/matmul_columns.h"

namespace apex {

constexpr size_t kWorkLine = 64;

constexpr size_t padded_to_line(size_t n_bytes) {
    return (n_bytes + kWorkLine - 1) / kWorkLine * kWorkLine;
}

// Counts when it begins at zero; ggml's buffer needs one line more, to begin at one.
class WorkBuffer {
  public:
    explicit WorkBuffer(uintptr_t begin) : begin_(begin), end_(begin) {}

    template <typename T>
    T* take(size_t n) {
        const uintptr_t part = end_;
        end_ += padded_to_line(n * sizeof(T));
        return reinterpret_cast<T*>(part);
    }

    MatmulColumns take_columns(const MatmulShape& shape) {
        const auto n = static_cast<size_t>(shape.n_columns());
        return {take<int64_t>(static_cast<size_t>(shape.n_matrices()) + 1), take<const void*>(n),
                take<float*>(n)};
    }

    size_t n_bytes() const { return end_ - begin_; }

  private:
    uintptr_t begin_, end_;
};

}  // namespace apex
