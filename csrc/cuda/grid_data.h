// The code books of kernels/grid_tables.h rearranged for the kernels of csrc/cuda, on the host.
#pragma once

#include <vector>

#include "cuda/grid.cuh"
#include "ggml.h"

namespace apex::cuda {

struct GridData {
    std::vector<uint32_t> by_rank;
    std::vector<Candidates> lists;
    std::vector<uint16_t> index_of_code;

    Grid on_host() const { return {by_rank.data(), lists.data(), index_of_code.data()}; }
    size_t bytes() const {
        return by_rank.size() * sizeof(by_rank[0]) + lists.size() * sizeof(lists[0]) +
               index_of_code.size() * sizeof(index_of_code[0]);
    }
};

// Built on first use, thread-safe, never freed; null for types without a code book.
const GridData* grid_data(ggml_type type);

}  // namespace apex::cuda
