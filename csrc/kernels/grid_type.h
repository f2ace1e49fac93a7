// The way from super-blocks to packed blocks that all IQ2 and IQ3 types share.
//
// A type supplies: Block, kBits (per level), kLength (weights per sub-block), kEvenSigns, kSigma
// (sigma2 is kSigma times the mean square), kEps (sub-blocks whose largest magnitude is below it
// are zero), kFudge (factor on d), kSteps, kRefit, grid(), start(), plain_weights() and pack().
#pragma once

#include "grid_search.h"
#include "grid_signs.h"

namespace apex::kernels::APEX_ISA {

// A batch as its sub-blocks are found, before packing. Codes are per group of a grid point, signs
// per group of eight weights.
template <int Bits, int SubBlocks>
struct GridFound {
    static constexpr int kGroups = kSuperBlock / NeighbourSearch<Bits>::kPositions;
    static constexpr int kSignGroups = kSuperBlock / 8;

    alignas(64) int32_t codes[kGroups * kLanes];
    alignas(64) int32_t signs[kSignGroups * kLanes];
    alignas(64) int32_t levels[SubBlocks * kLanes];  // of the scales
    alignas(64) int32_t d[kLanes];                   // fp16 bits
    F32 scales[SubBlocks];
    uint32_t zero[SubBlocks];  // lanes where the sub-block is too small to search
    uint32_t empty;            // lanes with nothing but zero scales

    uint16_t index(const GridTables& grid, int group, int lane) const {
        return grid.index_of_code[codes[group * kLanes + lane]];
    }
    int sign(int group, int lane) const { return signs[group * kLanes + lane]; }
    int level(int sub_block, int lane) const { return levels[sub_block * kLanes + lane]; }
    bool is_zero(int sub_block, int lane) const { return (zero[sub_block] >> lane) & 1; }
    bool is_empty(int lane) const { return (empty >> lane) & 1; }
};

template <typename Type, bool WithMatrix>
void find_sub_block(const float* x, const float* qw, F32 sigma2, Mask used, int j,
                    GridFit<Type::kBits, Type::kLength>* fit,
                    GridFound<Type::kBits, kSuperBlock / Type::kLength>* f) {
    constexpr int kLength = Type::kLength;
    constexpr int kSignGroups = kLength / 8;
    constexpr int kGroups = GridBlock<Type::kBits, kLength>::kGroups;
    alignas(64) float w[kLength * kLanes];
    alignas(64) float magnitudes[kLength * kLanes];
    I32 signs[kSignGroups];
    if (WithMatrix) {
        importance_weights(x, qw, sigma2, kLength, w);
    } else {
        Type::plain_weights(x, sigma2, w);
    }
    for (int k = 0; k < kSignGroups; ++k) {
        const int at = 8 * k * kLanes;
        signs[k] = Type::kEvenSigns ? split_even_signs(x + at, w + at, magnitudes + at)
                                    : split_signs(x + at, magnitudes + at);
    }
    F32 divisor = largest_value(magnitudes, kLength);
    Mask lanes = ~(divisor < F32(Type::kEps));
    lanes = Type::start(fit, magnitudes, w, lanes, &divisor);
    fit->block.set(magnitudes, w);
    fit->search(used & lanes, divisor, Type::kSteps, Type::kRefit);

    require_scale(fit->scale, used & lanes);
    const Mask flip = fit->scale < F32(0.0f);
    f->zero[j] = ~bits(lanes);
    f->scales[j] = select(lanes, select(flip, negate(fit->scale), fit->scale), F32(0.0f));
    const I32 all_signs = Type::kEvenSigns ? 127 : 255;
    for (int k = 0; k < kSignGroups; ++k) {
        const I32 s = select(flip, signs[k] ^ all_signs, signs[k]);
        store(f->signs + (kSignGroups * j + k) * kLanes, select(lanes, s, I32(0)));
    }
    for (int k = 0; k < kGroups; ++k) {
        const int at = (kGroups * j + k) * kLanes;
        store(f->codes + at, select(lanes, load(fit->points.codes + k * kLanes), I32(0)));
    }
}

template <typename Type, bool WithMatrix>
void quantize_on_grid(const float* src, void* dst, int64_t nrows, int64_t n_per_row,
                      const float* imatrix) {
    constexpr int kLength = Type::kLength;
    constexpr int kSubBlocks = kSuperBlock / kLength;
    const GridTables& grid = Type::grid();
    GridFit<Type::kBits, kLength> fit(grid);
    const auto quantize_batch = [&](const Batch<kSuperBlock, typename Type::Block>& batch) {
        alignas(64) float x[kSuperBlock * kLanes];
        alignas(64) float qw[kSuperBlock * kLanes];
        GridFound<Type::kBits, kSubBlocks> f;
        batch.load_x(x);
        if (WithMatrix) batch.load_imatrix(qw);
        const F32 sigma2 = F32(Type::kSigma) * sum_of_squares(x, kSuperBlock) / F32(256.0f);
        const Mask used = lane_numbers() < I32(batch.count);
        for (int j = 0; j < kSubBlocks; ++j) {
            const int at = j * kLength * kLanes;
            find_sub_block<Type, WithMatrix>(x + at, qw + at, sigma2, used, j, &fit, &f);
        }
        const F32 d = quantize_grid_scales<kSubBlocks>(f.scales, f.levels, &f.empty);
        store(f.d, to_half(d * F32(Type::kFudge)));
        for (int lane = 0; lane < batch.count; ++lane) {
            Type::pack(f, grid, lane, batch.out[lane]);
            batch.out[lane]->d = static_cast<ggml_half>(f.d[lane]);
        }
    };
    for_each_batch<kSuperBlock, typename Type::Block>(src, dst, nrows, n_per_row, imatrix,
                                                      quantize_batch);
}

}  // namespace apex::kernels::APEX_ISA
