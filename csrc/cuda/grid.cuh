// The code books of the IQ1, IQ2 and IQ3 types as the kernels read them, and the search for the
// best neighbour of a point that is off the book: the twin of iq2_find_best_neighbour,
// iq3_find_best_neighbour and iq1_find_best_neighbour2.
#pragma once

#include "cuda/portable.cuh"

namespace apex::cuda {

// Eight candidates of a neighbour list; what a list's last one lacks repeats the last candidate,
// which a strict comparison never prefers.
struct alignas(16) Candidates {
    uint16_t codes[8];
};

// Made from kernels::GridTables by grid_data.cpp; points into device or host memory.
struct Grid {
    // By rank (sum of level * radix^position): the code of a point on the grid, else
    // kOffGrid | n_chunks << kChunkShift | first chunk of its list.
    const uint32_t* by_rank;
    const Candidates* lists;
    const uint16_t* index_of_code;
};

inline constexpr uint32_t kOffGrid = 0x80000000u;
inline constexpr int kChunkShift = 20;
inline constexpr uint32_t kChunkMask = (1u << kChunkShift) - 1;

// Bits per level: 2 (IQ1, IQ2: eight positions, three levels) or 3 (IQ3: four positions).
template <int Bits>
struct GridShape {
    static constexpr int kPositions = Bits == 2 ? 8 : 4;
    static constexpr int kTop = Bits == 2 ? 2 : 7;
    static constexpr int kRadix = kTop + 1;
    static constexpr int kCosts = kPositions * kRadix;

    APEX_HD static int level(uint32_t code, int i) {
        return static_cast<int>(code >> (Bits * i)) & ((1 << Bits) - 1);
    }
};

// No code: the cost of every candidate overflows, where ggml's search comes out empty.
inline constexpr uint32_t kNoCode = 0xffffffffu;

// costs: by position and level, kRadix for each. Each candidate's sum runs from the first position
// to the last; the first of equals wins.
template <int Bits, typename Lane>
APEX_HD uint32_t cheapest_candidate(const Grid& grid, uint32_t entry, Lane costs) {
    using Shape = GridShape<Bits>;
    const Candidates* chunk = grid.lists + (entry & kChunkMask);
    const auto n_chunks = static_cast<int>((entry & ~kOffGrid) >> kChunkShift);
    float best = FLT_MAX;
    uint32_t best_code = kNoCode;
    APEX_ROLLED
    for (int c = 0; c < n_chunks; ++c) {
        const Candidates candidates = chunk[c];
        APEX_UNROLL
        for (int k = 0; k < 8; ++k) {
            const uint32_t code = candidates.codes[k];
            float cost = costs[Shape::level(code, 0)];
            APEX_UNROLL
            for (int i = 1; i < Shape::kPositions; ++i) {
                cost += costs[i * Shape::kRadix + Shape::level(code, i)];
            }
            if (cost < best) {
                best = cost;
                best_code = code;
            }
        }
    }
    return best_code;
}

}  // namespace apex::cuda
