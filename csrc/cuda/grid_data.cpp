#include "cuda/grid_data.h"

#include <algorithm>

#include "kernels/grid_tables.h"

namespace apex::cuda {
namespace {

using kernels::GridTables;

uint32_t append_list(const uint16_t* list, std::vector<Candidates>& lists) {
    const auto first = static_cast<uint32_t>(lists.size());
    const int count = list[0];
    const int n_chunks = (count + 7) / 8;
    for (int c = 0; c < n_chunks; ++c) {
        Candidates chunk;
        for (int k = 0; k < 8; ++k) chunk.codes[k] = list[1 + std::min(8 * c + k, count - 1)];
        lists.push_back(chunk);
    }
    return kOffGrid | static_cast<uint32_t>(n_chunks) << kChunkShift | first;
}

template <int Bits>
const GridData* rearrange(const GridTables& tables) {
    using Shape = GridShape<Bits>;
    auto* data = new GridData;  // never freed: as long-lived as the tables it is made from
    int n_ranks = 1;
    for (int i = 0; i < Shape::kPositions; ++i) n_ranks *= Shape::kRadix;
    for (int rank = 0; rank < n_ranks; ++rank) {
        const int32_t entry = tables.by_rank[rank];
        data->by_rank.push_back(entry >= 0 ? static_cast<uint32_t>(entry)
                                           : append_list(tables.lists - 1 - entry, data->lists));
    }
    data->index_of_code.assign(tables.index_of_code,
                               tables.index_of_code + (1 << (Bits * Shape::kPositions)));
    return data;
}

}  // namespace

const GridData* grid_data(ggml_type type) {
    switch (type) {
        case GGML_TYPE_IQ2_XXS: {
            static const GridData* const data = rearrange<2>(kernels::iq2_xxs_grid());
            return data;
        }
        case GGML_TYPE_IQ2_XS: {
            static const GridData* const data = rearrange<2>(kernels::iq2_xs_grid());
            return data;
        }
        case GGML_TYPE_IQ2_S: {
            static const GridData* const data = rearrange<2>(kernels::iq2_s_grid());
            return data;
        }
        case GGML_TYPE_IQ3_XXS: {
            static const GridData* const data = rearrange<3>(kernels::iq3_xxs_grid());
            return data;
        }
        case GGML_TYPE_IQ3_S: {
            static const GridData* const data = rearrange<3>(kernels::iq3_s_grid());
            return data;
        }
        case GGML_TYPE_IQ1_S:
        case GGML_TYPE_IQ1_M: {
            static const GridData* const data = rearrange<2>(kernels::iq1_grid());
            return data;
        }
        default:
            return nullptr;
    }
}

}  // namespace apex::cuda
