// IQ1_M: sub-blocks of 16 weights with three levels; each half is shifted up or down.
// Scalar twin: quantize_row_iq1_m_impl.
#include "families.h"
#include "ggml_blocks.h"
#include "iq1_block.h"

namespace apex::kernels::APEX_ISA {

namespace {

constexpr int kLength = 16;
constexpr int kSubBlocks = 16;
constexpr int kGroups = 2;

// Sums over the values before each rank, per half of the sub-block.
struct HalfSums {
    F32 x[kLength + 1];
    F32 w[kLength + 1];
};

void sum_halves(const float* x, const float* w, const SortedBlock<kLength>& sorted,
                HalfSums* halves) {
    alignas(64) float wx[kLength * kLanes];
    for (int i = 0; i < kLength; ++i) {
        store(wx + i * kLanes, load(w + i * kLanes) * load(x + i * kLanes));
    }
    for (int h = 0; h < 2; ++h) halves[h].x[0] = halves[h].w[0] = F32(0.0f);
    for (int r = 0; r < kLength; ++r) {
        const Mask first = load(sorted.order + r * kLanes) < I32(kLength / 2);
        const F32 dx = sorted.pick(wx, r);
        const F32 dw = sorted.pick(w, r);
        for (int h = 0; h < 2; ++h) {
            const Mask here = h == 0 ? first : ~first;
            halves[h].x[r + 1] = select(here, halves[h].x[r] + dx, halves[h].x[r]);
            halves[h].w[r + 1] = select(here, halves[h].w[r] + dw, halves[h].w[r]);
        }
    }
}

// Tries all splits of the sorted values into three levels, with the four pairs of shifts.
void search(const HalfSums* halves, Split* best) {
    const F32 up2 = kShiftedUp[2], down2 = kShiftedDown[2];
    constexpr const float* u = kShiftedUp;
    constexpr const float* d = kShiftedDown;
    const F32 up_first = u[0] * u[0] - u[1] * u[1], up_second = u[1] * u[1] - u[2] * u[2];
    const F32 down_first = d[0] * d[0] - d[1] * d[1], down_second = d[1] * d[1] - d[2] * d[2];
    F32 x_up[2], x_down[2], w_up[2], w_down[2];  // the terms of all weights
    F32 second_up[2][kLength + 1], second_down[2][kLength + 1];
    for (int h = 0; h < 2; ++h) {
        const F32 tx = halves[h].x[kLength], tw = halves[h].w[kLength];
        x_up[h] = tx * up2;
        x_down[h] = tx * down2;
        w_up[h] = tw * up2 * up2;
        w_down[h] = tw * down2 * down2;
        for (int i2 = 0; i2 <= kLength; ++i2) {
            second_up[h][i2] = halves[h].w[i2] * up_second;
            second_down[h][i2] = halves[h].w[i2] * down_second;
        }
    }
    for (int i1 = 0; i1 <= kLength; ++i1) {
        F32 first_up[2], first_down[2];
        for (int h = 0; h < 2; ++h) {
            first_up[h] = w_up[h] + halves[h].w[i1] * up_first;
            first_down[h] = w_down[h] + halves[h].w[i1] * down_first;
        }
        for (int i2 = i1; i2 <= kLength; ++i2) {
            F32 qx_up[2], qx_down[2], q2_up[2], q2_down[2];
            for (int h = 0; h < 2; ++h) {
                const F32 sx = halves[h].x[i1] + halves[h].x[i2];
                qx_up[h] = x_up[h] - sx;
                qx_down[h] = x_down[h] - sx;
                q2_up[h] = first_up[h] + second_up[h][i2];
                q2_down[h] = first_down[h] + second_down[h][i2];
            }
            best->offer(qx_up[0] + qx_up[1], q2_up[0] + q2_up[1], i1, i2, 0);
            best->offer(qx_up[0] + qx_down[1], q2_up[0] + q2_down[1], i1, i2, 1);
            best->offer(qx_down[0] + qx_up[1], q2_down[0] + q2_up[1], i1, i2, 2);
            best->offer(qx_down[0] + qx_down[1], q2_down[0] + q2_down[1], i1, i2, 3);
        }
    }
}

struct Found {
    alignas(64) float w[kSuperBlock * kLanes];
    alignas(64) int32_t codes[kSubBlocks * kGroups * kLanes];
    alignas(64) int32_t shifts[kSubBlocks * kLanes];  // bit 1: first half down, bit 0: second
    alignas(64) int32_t levels[kSubBlocks * kLanes];  // of the scales
    alignas(64) int32_t d[kLanes];
    F32 scales[kSubBlocks];
};

void halves_down(I32 shifts, Mask* down) {
    down[0] = (shifts & I32(2)) == I32(2);
    down[1] = (shifts & I32(1)) == I32(1);
}

void find_sub_block(const float* x, const float* w, Mask used, int j, Iq1Points<kLength>* points,
                    Found* f) {
    alignas(64) float levels[kLength * kLanes];
    HalfSums halves[2];
    const F32 largest = largest_absolute(x, kLength);
    const SortedBlock<kLength> sorted(x);
    sum_halves(x, w, sorted, halves);
    Split split;
    split.score = F32(-FLT_MAX);
    split.scale = largest;
    search(halves, &split);
    const Mask lanes = used & ~(largest < F32(1e-7f)) & ~(split.i1 < I32(0));  // .._EPS_IQ1_M
    split_levels(sorted, split, levels);

    const Mask flip = split.scale < F32(0.0f);
    for (int i = 0; i < kLength; ++i) {
        const F32 l = load(levels + i * kLanes);
        store(levels + i * kLanes, select(flip, F32(2.0f) - l, l));
    }
    const I32 shifts = select(flip, split.signs ^ I32(3), split.signs);
    Mask down[kGroups];
    halves_down(shifts, down);
    const F32 scale = select(flip, negate(split.scale), split.scale);
    const F32 fitted = points->assign(x, w, levels, scale, down, lanes);
    require_scale(fitted, lanes);
    f->scales[j] = select(lanes, fitted, F32(0.0f));
    store(f->shifts + j * kLanes, select(lanes, shifts, I32(0)));
    for (int g = 0; g < kGroups; ++g) {
        store(f->codes + (kGroups * j + g) * kLanes,
              select(lanes, load(points->codes + g * kLanes), I32(0)));
    }
}

// The scales' levels and the block's d, fitted to the levels by a serial sum over the block.
// Returns the lanes with nothing but zero scales.
Mask fit_block(const float* x, Found* f) {
    const F32 zero = 0.0f;
    F32 largest = zero;
    for (int j = 0; j < kSubBlocks; ++j) largest = max(largest, f->scales[j]);
    F32 d = largest / F32(15.0f);
    const F32 inverse = F32(1.0f) / d;
    F32 sumqx = zero, sumq2 = zero;
    for (int j = 0; j < kSubBlocks; ++j) {
        const I32 l = iq1_scale_level(inverse, f->scales[j]);
        store(f->levels + j * kLanes, l);
        const F32 factor = to_float(l + l + I32(1));
        Mask down[kGroups];
        halves_down(load(f->shifts + j * kLanes), down);
        for (int i = 0; i < kLength; ++i) {
            const int at = (j * kLength + i) * kLanes;
            const I32 code = load(f->codes + (kGroups * j + i / 8) * kLanes);
            const F32 q = level_value(code >> (2 * (i % 8)), down[i / 8]) * factor;
            const F32 wq = load(f->w + at) * q;
            sumqx = sumqx + wq * load(x + at);
            sumq2 = sumq2 + wq * q;
        }
    }
    d = select(sumq2 > zero, sumqx / sumq2, d);
    store(f->d, to_half(d * F32(1.1125f)));
    return largest == zero;
}

void pack(const Found& f, const GridTables& grid, int lane, bool empty, block_iq1_m* out) {
    const auto d = static_cast<uint32_t>(f.d[lane]);
    uint16_t scales[4];
    for (int q = 0; q < 4; ++q) {
        // The four nibbles of d are the top nibbles of the four scale words.
        uint32_t word = ((d >> (4 * q)) & 0xF) << 12;
        for (int b = 0; b < 4; ++b) {
            word |= static_cast<uint32_t>(f.levels[(4 * q + b) * kLanes + lane]) << (3 * b);
        }
        scales[q] = static_cast<uint16_t>(empty ? 0 : word);
    }
    std::memcpy(out->scales, scales, sizeof(scales));
    for (int j = 0; j < kSubBlocks; ++j) {
        const int32_t* codes = f.codes + kGroups * j * kLanes + lane;
        const int index0 = grid.index_of_code[codes[0]];
        const int index1 = grid.index_of_code[codes[kLanes]];
        const int shifts = empty ? 0 : f.shifts[j * kLanes + lane];
        out->qs[2 * j] = static_cast<uint8_t>(index0 & 255);
        out->qs[2 * j + 1] = static_cast<uint8_t>(index1 & 255);
        const int high = (index0 >> 8) | ((index1 >> 8) << 4);
        out->qh[j] = static_cast<uint8_t>(high | ((shifts & 2) << 2) | ((shifts & 1) << 7));
    }
}

template <bool WithMatrix>
void quantize(const float* src, void* dst, int64_t nrows, int64_t n_per_row, const float* imatrix) {
    const GridTables& grid = iq1_grid();
    Iq1Points<kLength> points(grid);
    const auto quantize_batch = [&](const Batch<kSuperBlock, block_iq1_m>& batch) {
        alignas(64) float x[kSuperBlock * kLanes];
        Found f;
        batch.load_x(x);
        if (WithMatrix) {
            alignas(64) float qw[kSuperBlock * kLanes];
            batch.load_imatrix(qw);
            const F32 sigma2 = F32(2.0f) * sum_of_squares(x, kSuperBlock) / F32(256.0f);
            importance_weights(x, qw, sigma2, kSuperBlock, f.w);
        } else {
            squared_weights(x, kSuperBlock, f.w);
        }
        const Mask used = lane_numbers() < I32(batch.count);
        for (int j = 0; j < kSubBlocks; ++j) {
            const int at = j * kLength * kLanes;
            find_sub_block(x + at, f.w + at, used, j, &points, &f);
        }
        const uint32_t empty = bits(fit_block(x, &f));
        for (int lane = 0; lane < batch.count; ++lane) {
            pack(f, grid, lane, (empty >> lane) & 1, batch.out[lane]);
        }
    };
    for_each_batch<kSuperBlock, block_iq1_m>(src, dst, nrows, n_per_row, imatrix, quantize_batch);
}

}  // namespace

QuantizeRows iq1_m(bool with_imatrix) {
    return with_imatrix ? quantize<true> : quantize<false>;
}

}  // namespace apex::kernels::APEX_ISA
