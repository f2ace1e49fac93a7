// IQ1_S: sub-blocks of 32 weights with three levels, all shifted up or all down.
// Scalar twin: quantize_row_iq1_s_impl.
#include "families.h"
#include "ggml_blocks.h"
#include "iq1_block.h"

namespace apex::kernels::APEX_ISA {

namespace {

constexpr int kLength = 32;
constexpr int kSubBlocks = 8;
constexpr int kGroups = 4;

// Tries all splits of the sorted values into three levels, with both shifts.
void search(const float* x, const float* w, const SortedBlock<kLength>& sorted, Split* best) {
    alignas(64) float wx[kLength * kLanes];
    for (int i = 0; i < kLength; ++i) {
        store(wx + i * kLanes, load(w + i * kLanes) * load(x + i * kLanes));
    }
    F32 sumx[kLength + 1], sumw[kLength + 1];
    sumx[0] = sumw[0] = F32(0.0f);
    for (int r = 0; r < kLength; ++r) {
        sumx[r + 1] = sumx[r] + sorted.pick(wx, r);
        sumw[r + 1] = sumw[r] + sorted.pick(w, r);
    }
    const F32 up0 = kShiftedUp[0], up1 = kShiftedUp[1], up2 = kShiftedUp[2];
    const F32 down0 = kShiftedDown[0], down2 = kShiftedDown[2];
    // The terms of the top level depend on i2 alone.
    F32 top_x_up[kLength + 1], top_x_down[kLength + 1], top_w_up[kLength + 1],
        top_w_down[kLength + 1];
    for (int i2 = 0; i2 <= kLength; ++i2) {
        const F32 dx = sumx[kLength] - sumx[i2];
        const F32 dw = sumw[kLength] - sumw[i2];
        top_x_up[i2] = dx * up2;
        top_x_down[i2] = dx * down2;
        top_w_up[i2] = dw * up2 * up2;
        top_w_down[i2] = dw * down2 * down2;
    }
    for (int i1 = 0; i1 <= kLength; ++i1) {
        const F32 bottom_x_up = sumx[i1] * up0;
        const F32 bottom_x_down = sumx[i1] * down0;
        const F32 bottom_w_up = sumw[i1] * up0 * up0;
        const F32 bottom_w_down = sumw[i1] * down0 * down0;
        for (int i2 = i1; i2 <= kLength; ++i2) {
            // The middle values are +-delta, so the middle terms differ in sign only.
            const F32 middle_x = (sumx[i2] - sumx[i1]) * up1;
            const F32 middle_w = (sumw[i2] - sumw[i1]) * up1 * up1;
            best->offer(bottom_x_up + middle_x + top_x_up[i2],
                        bottom_w_up + middle_w + top_w_up[i2], i1, i2, 0);
            best->offer(bottom_x_down - middle_x + top_x_down[i2],
                        bottom_w_down + middle_w + top_w_down[i2], i1, i2, 1);
        }
    }
}

struct Found {
    alignas(64) int32_t codes[kSubBlocks * kGroups * kLanes];
    alignas(64) int32_t high[kSubBlocks * kLanes];  // bits 12-15 of qh
    alignas(64) int32_t d[kLanes];
};

// Returns the sub-block's scale; down: lanes whose values are shifted down.
F32 find_sub_block(const float* x, const float* qw, F32 sigma2, Mask used,
                   Iq1Points<kLength>* points, int32_t* codes, Mask* down) {
    alignas(64) float w[kLength * kLanes];
    alignas(64) float levels[kLength * kLanes];
    importance_weights(x, qw, sigma2, kLength, w);
    const F32 largest = largest_absolute(x, kLength);
    const SortedBlock<kLength> sorted(x);
    Split split;
    split.score = F32(-FLT_MAX);
    split.scale = largest;
    search(x, w, sorted, &split);
    const Mask lanes = used & ~(largest < F32(1e-12f)) & ~(split.i1 < I32(0));  // .._EPS_IQ1_S
    split_levels(sorted, split, levels);

    const Mask flip = split.scale < F32(0.0f);
    for (int i = 0; i < kLength; ++i) {
        const F32 l = load(levels + i * kLanes);
        store(levels + i * kLanes, select(flip, F32(2.0f) - l, l));
    }
    *down = lanes & (select(flip, split.signs ^ I32(1), split.signs) == I32(1));
    const Mask down_groups[kGroups] = {*down, *down, *down, *down};
    const F32 scale = select(flip, negate(split.scale), split.scale);
    const F32 fitted = points->assign(x, w, levels, scale, down_groups, lanes);
    require_scale(fitted, lanes);
    for (int g = 0; g < kGroups; ++g) {
        store(codes + g * kLanes, select(lanes, load(points->codes + g * kLanes), I32(0)));
    }
    return select(lanes, fitted, F32(0.0f));
}

void quantize(const float* src, void* dst, int64_t nrows, int64_t n_per_row, const float* imatrix) {
    const GridTables& grid = iq1_grid();
    Iq1Points<kLength> points(grid);
    const auto quantize_batch = [&](const Batch<kSuperBlock, block_iq1_s>& batch) {
        alignas(64) float x[kSuperBlock * kLanes];
        alignas(64) float qw[kSuperBlock * kLanes];
        Found f;
        F32 scales[kSubBlocks];
        Mask down[kSubBlocks];
        batch.load_x(x);
        batch.load_imatrix(qw);
        const Mask used = lane_numbers() < I32(batch.count);
        const F32 sigma2 = F32(2.0f) * sum_of_squares(x, kSuperBlock) / F32(256.0f);
        F32 largest = 0.0f;
        for (int j = 0; j < kSubBlocks; ++j) {
            const int at = j * kLength * kLanes;
            scales[j] = find_sub_block(x + at, qw + at, sigma2, used, &points,
                                       f.codes + j * kGroups * kLanes, down + j);
            largest = max(largest, scales[j]);
        }
        const F32 d = largest / F32(15.0f);
        const F32 inverse = F32(1.0f) / d;
        const Mask empty = largest == F32(0.0f);
        store(f.d, to_half(d * F32(1.125f)));
        for (int j = 0; j < kSubBlocks; ++j) {
            const I32 l = iq1_scale_level(inverse, scales[j]) | select(down[j], I32(8), I32(0));
            store(f.high + j * kLanes, select(empty, I32(0), l << 12));
        }
        for (int lane = 0; lane < batch.count; ++lane) {
            block_iq1_s* out = batch.out[lane];
            out->d = static_cast<ggml_half>(f.d[lane]);
            for (int j = 0; j < kSubBlocks; ++j) {
                int high = f.high[j * kLanes + lane];
                for (int k = 0; k < kGroups; ++k) {
                    const int g = kGroups * j + k;
                    const int index = grid.index_of_code[f.codes[g * kLanes + lane]];
                    out->qs[g] = static_cast<uint8_t>(index & 255);
                    high |= (index >> 8) << (3 * k);
                }
                out->qh[j] = static_cast<uint16_t>(high);
            }
        }
    };
    for_each_batch<kSuperBlock, block_iq1_s>(src, dst, nrows, n_per_row, imatrix, quantize_batch);
}

}  // namespace

QuantizeRows iq1_s(bool with_imatrix) {
    return with_imatrix ? quantize : nullptr;
}

}  // namespace apex::kernels::APEX_ISA
