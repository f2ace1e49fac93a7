// The code books of the IQ1, IQ2 and IQ3 types, and for each point off a book its near neighbours.
//
// A point is the levels of a group: eight levels 0..2 (IQ1, IQ2) or four levels 0..7 (IQ3). Its
// code packs two or three bits per level, the first level lowest.
#pragma once

#include <cstdint>

namespace apex::kernels {

struct GridTables {
    // By rank, that is sum(level[i] * radix^i) with radix 3 (IQ1, IQ2) or 8 (IQ3): the code if the
    // point is on the grid, else -1 - the start of its list.
    const int32_t* by_rank;
    // Neighbour lists: a count, then the codes in the order ggml tries them, then copies of the
    // last up to a multiple of kListPadding.
    const uint16_t* lists;
    // Index in the grid by code; only codes on the grid are meaningful.
    const uint16_t* index_of_code;
    // Codes by index.
    const uint16_t* codes;
    int size;
};

inline constexpr int kListPadding = 16;
inline constexpr int kLongestList = 304;  // of IQ2 and IQ3, with padding

// Built on first use (some ten milliseconds each), thread-safe, never freed.
const GridTables& iq2_xxs_grid();
const GridTables& iq2_xs_grid();
const GridTables& iq2_s_grid();
const GridTables& iq3_xxs_grid();
const GridTables& iq3_s_grid();
const GridTables& iq1_grid();

}  // namespace apex::kernels
