// What a matrix meets in a product, where it lies in a GPU's memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace apex {

// The right side of a matrix multiplication, as ggml lays it out; pointers into the GPU's memory.
struct DeviceInput {
    const void* data = nullptr;  // floats [ne0, ne1, ne2, ne3], the rows contiguous
    int64_t ne[4] = {};
    size_t nb[4] = {};           // bytes
    int64_t n_matrices[2] = {};  // of the weight, its ne[2] and ne[3]
    // Where rows are routed: the experts of token t, I32 [n_used, n_tokens]. Slot s of token t
    // takes row s % ne1 of plane t.
    const void* experts = nullptr;
    int64_t n_used = 0;
    int64_t n_tokens = 0;
    size_t expert_nb[2] = {};

    int64_t n_all_matrices() const { return n_matrices[0] * n_matrices[1]; }
};

}  // namespace apex
