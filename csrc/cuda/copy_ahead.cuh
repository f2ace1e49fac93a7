// Copies into the memory that a block shares, on their way while its threads go on computing. On a
// CPU they are done at once.
#pragma once

#include <cstdint>

#include "cuda/thread_block.cuh"

namespace apex::cuda {

inline constexpr int kCopied = 4;  // floats that one copy brings

// The first n of four floats, the others 0. `to` lies at a multiple of 16 bytes; is_aligned:
// `from`, too. With n = 0 nothing is read.
APEX_BLOCK void copy_ahead(float* to, const float* from, int n, bool is_aligned) {
#if defined(__CUDA_ARCH__)
    const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    if (is_aligned) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
                     "r"(4 * n));
        return;
    }
    for (int i = 0; i < kCopied; ++i) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at + 4 * i),
                     "l"(i < n ? from + i : from), "r"(i < n ? 4 : 0));
    }
#else
    (void)is_aligned;
    for (int i = 0; i < kCopied; ++i) to[i] = i < n ? from[i] : 0.0f;
#endif
}

// What this thread has copied since the last call goes together.
APEX_BLOCK void end_copies() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// All of this thread's copies are there but those of the last kLeft calls of end_copies().
template <int kLeft>
APEX_BLOCK void wait_for_copies() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

}  // namespace apex::cuda
