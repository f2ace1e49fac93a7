#include "grid_tables.h"

#include <cstddef>
#include <stdexcept>
#include <vector>

#define GGML_COMMON_IMPL_CPP
#include "ggml-common.h"

namespace apex::kernels {

namespace {

// A grid in the making; GridTables points into it.
struct Grid {
    int positions;  // levels per point
    int radix;      // level values
    int bits;       // per level in a code
    std::vector<uint16_t> codes;
    std::vector<uint16_t> index_of_code;
    std::vector<int32_t> by_rank;
    std::vector<uint16_t> lists;

    int level(int code, int i) const { return (code >> (bits * i)) & ((1 << bits) - 1); }

    int rank(int code) const {
        int r = 0;
        for (int i = positions - 1; i >= 0; --i) r = r * radix + level(code, i);
        return r;
    }

    int code_of_rank(int r) const {
        int code = 0;
        for (int i = 0; i < positions; ++i, r /= radix) code |= (r % radix) << (bits * i);
        return code;
    }

    // The neighbours of ggml's iq2xs_init_impl and iq3xs_init_impl: all points of the `shells`
    // smallest distances, by distance and then by index. ggml's levels are 2 l + 1, which scales
    // all squared distances by four and does not change their order.
    void append_neighbours(int code, int shells) {
        const int max_distance = positions * (radix - 1) * (radix - 1);
        std::vector<std::vector<uint16_t>> at_distance(max_distance + 1);
        for (uint16_t candidate : codes) {
            int d2 = 0;
            for (int i = 0; i < positions; ++i) {
                const int diff = level(code, i) - level(candidate, i);
                d2 += diff * diff;
            }
            at_distance[d2].push_back(candidate);
        }
        const std::size_t start = lists.size();
        lists.push_back(0);
        for (const auto& shell : at_distance) {
            if (shell.empty()) continue;
            if (shells-- == 0) break;
            lists.insert(lists.end(), shell.begin(), shell.end());
        }
        lists[start] = static_cast<uint16_t>(lists.size() - start - 1);
        while ((lists.size() - start - 1) % kListPadding != 0) lists.push_back(lists.back());
    }

    // kLongestList leaves room for each list in the searches of IQ2 and IQ3.
    void check_lists() const {
        for (const int32_t entry : by_rank) {
            if (entry < 0 && lists[static_cast<std::size_t>(-1 - entry)] > kLongestList) {
                throw std::logic_error("a list of neighbours is longer than kLongestList");
            }
        }
    }

    void build(int shells) {
        int ranks = 1;
        for (int i = 0; i < positions; ++i) ranks *= radix;
        by_rank.assign(ranks, -1);
        index_of_code.assign(std::size_t{1} << (bits * positions), 0);
        for (std::size_t k = 0; k < codes.size(); ++k) {
            by_rank[rank(codes[k])] = codes[k];
            index_of_code[codes[k]] = static_cast<uint16_t>(k);
        }
        for (int r = 0; r < ranks; ++r) {
            if (by_rank[r] >= 0) continue;
            by_rank[r] = -1 - static_cast<int32_t>(lists.size());
            append_neighbours(code_of_rank(r), shells);
        }
        check_lists();
    }

    GridTables tables() const {
        return {by_rank.data(), lists.data(), index_of_code.data(), codes.data(),
                static_cast<int>(codes.size())};
    }
};

// ggml-common.h stores a grid's points as the values its dequantizers use, one byte per level.
template <typename Point, typename ToLevel>
const Grid* build(const Point* points, int size, int radix, int shells, ToLevel to_level) {
    auto* grid = new Grid;
    grid->positions = sizeof(Point);
    grid->radix = radix;
    grid->bits = radix == 3 ? 2 : 3;
    for (int k = 0; k < size; ++k) {
        int code = 0;
        for (int i = 0; i < grid->positions; ++i) {
            const auto byte = static_cast<uint8_t>(points[k] >> (8 * i));
            code |= to_level(byte) << (grid->bits * i);
        }
        grid->codes.push_back(static_cast<uint16_t>(code));
    }
    grid->build(shells);
    return grid;
}

int level_of_2bit(uint8_t byte) {
    return byte == 8 ? 0 : byte == 25 ? 1 : 2;
}
int level_of_iq3_xxs(uint8_t byte) {
    return (byte - 4) / 8;
}
int level_of_iq3_s(uint8_t byte) {
    return (byte - 1) / 2;
}
int level_of_1bit(uint8_t byte) {
    return static_cast<int8_t>(byte) + 1;
}

}  // namespace

// The number of shells is nwant in iq2xs_init_impl and iq3xs_init_impl.

const GridTables& iq2_xxs_grid() {
    static const Grid* const grid = build(iq2xxs_grid, 256, 3, 2, level_of_2bit);
    static const GridTables tables = grid->tables();
    return tables;
}

const GridTables& iq2_xs_grid() {
    static const Grid* const grid = build(iq2xs_grid, 512, 3, 2, level_of_2bit);
    static const GridTables tables = grid->tables();
    return tables;
}

const GridTables& iq2_s_grid() {
    static const Grid* const grid = build(iq2s_grid, 1024, 3, 1, level_of_2bit);
    static const GridTables tables = grid->tables();
    return tables;
}

const GridTables& iq3_xxs_grid() {
    static const Grid* const grid = build(iq3xxs_grid, 256, 8, 2, level_of_iq3_xxs);
    static const GridTables tables = grid->tables();
    return tables;
}

const GridTables& iq3_s_grid() {
    static const Grid* const grid = build(iq3s_grid, 512, 8, 3, level_of_iq3_s);
    static const GridTables tables = grid->tables();
    return tables;
}

const GridTables& iq1_grid() {
    static const Grid* const grid = build(iq1s_grid, NGRID_IQ1S, 3, 3, level_of_1bit);
    static const GridTables tables = grid->tables();
    return tables;
}

}  // namespace apex::kernels
