// Compiled for AVX-512 like the products: loops over bytes become vectors. No std templates: see
// simd.h.
#include "panel_unpack.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define GGML_COMMON_DECL_CPP
#define GGML_COMMON_IMPL_CPP
#include "ggml-common.h"

namespace apex::kernels {

namespace {

// What all types share: the factor, and what columns stored plus 128 add.
void finish(PanelRow& block, uint16_t half, float factor = 1.0f) {
    int32_t sum = 0;
    for (int s = 0; s < 16; ++s) {
        int32_t codes = 0;
        for (int k = 0; k < 16; ++k) codes += block.codes[16 * s + k];
        sum += block.scales[s] * codes;
    }
    block.offset = -128 * sum;
    block.d = _cvtsh_ss(half) * factor;
}

int8_t signed_code(int code) {
    return static_cast<int8_t>(code);
}

// Eight values of a grid, negative where a bit is set.
void put_grid(const uint8_t* values, uint8_t signs, int8_t* codes) {
    for (int k = 0; k < 8; ++k) {
        codes[k] = signed_code((signs >> k & 1) != 0 ? -values[k] : values[k]);
    }
}

const uint8_t* bytes_of(const uint64_t& grid) {
    return reinterpret_cast<const uint8_t*>(&grid);
}

uint64_t two_of(uint32_t first, uint32_t second) {
    return static_cast<uint64_t>(second) << 32 | first;
}

// Scales of 32 codes are those of both halves.
void put_scale_of_32(PanelRow& block, int i, int scale) {
    block.scales[2 * i] = block.scales[2 * i + 1] = scale;
}

uint32_t word(const void* bytes) {
    uint32_t value;
    __builtin_memcpy(&value, bytes, sizeof(value));
    return value;
}

// One of eight packed 6-bit scales and minima of Q5_K (get_scale_min_k4).
void scale_and_min(const uint8_t* packed, int i, int& scale, int& min) {
    if (i < 4) {
        scale = packed[i] & 63;
        min = packed[i + 4] & 63;
    } else {
        scale = (packed[i + 4] & 15) | packed[i - 4] >> 6 << 4;
        min = packed[i + 4] >> 4 | packed[i] >> 6 << 4;
    }
}

}  // namespace

void unpack_q2_k(const void* row, PanelRow* blocks, int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; ++i) {
        const block_q2_K& from = static_cast<const block_q2_K*>(row)[i];
        PanelRow& to = blocks[i];
        for (int e = 0; e < 256; ++e) {
            const int byte = e / 128 * 32 + e % 32, shift = e % 128 / 32 * 2;
            to.codes[e] = signed_code(from.qs[byte] >> shift & 3);
        }
        for (int s = 0; s < 16; ++s) {
            to.scales[s] = from.scales[s] & 15;
            to.mins[s] = from.scales[s] >> 4;
        }
        to.dmin = _cvtsh_ss(from.data.data.dmin);
        finish(to, from.data.data.d);
    }
}

void unpack_q3_k(const void* row, PanelRow* blocks, int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; ++i) {
        const block_q3_K& from = static_cast<const block_q3_K*>(row)[i];
        PanelRow& to = blocks[i];
        for (int e = 0; e < 256; ++e) {
            const int byte = e / 128 * 32 + e % 32, shift = e % 128 / 32 * 2;
            const int high = from.hmask[e % 32] >> (e / 32) & 1;
            to.codes[e] = signed_code((from.qs[byte] >> shift & 3) + 4 * high - 4);
        }
        for (int s = 0; s < 16; ++s) {
            const int low = s < 8 ? from.scales[s] & 15 : from.scales[s - 8] >> 4;
            const int high = from.scales[8 + s % 4] >> (2 * (s / 4)) & 3;
            to.scales[s] = (low | high << 4) - 32;
        }
        finish(to, from.d);
    }
}

void unpack_q5_k(const void* row, PanelRow* blocks, int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; ++i) {
        const block_q5_K& from = static_cast<const block_q5_K*>(row)[i];
        PanelRow& to = blocks[i];
        for (int e = 0; e < 256; ++e) {
            const int low = from.qs[e / 64 * 32 + e % 32] >> (e % 64 / 32 * 4) & 15;
            to.codes[e] = signed_code(low | (from.qh[e % 32] >> (e / 32) & 1) << 4);
        }
        for (int s = 0; s < 8; ++s) {
            int scale, min;
            scale_and_min(from.scales, s, scale, min);
            put_scale_of_32(to, s, scale);
            to.mins[2 * s] = to.mins[2 * s + 1] = min;
        }
        to.dmin = _cvtsh_ss(from.data.data.dmin);
        finish(to, from.data.data.d);
    }
}

void unpack_q6_k(const void* row, PanelRow* blocks, int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; ++i) {
        const block_q6_K& from = static_cast<const block_q6_K*>(row)[i];
        PanelRow& to = blocks[i];
        for (int half = 0; half < 2; ++half) {
            const uint8_t* low = from.ql + 64 * half;
            const uint8_t* high = from.qh + 32 * half;
            int8_t* codes = to.codes + 128 * half;
            for (int k = 0; k < 32; ++k) {
                const int a = low[k], b = low[k + 32], h = high[k];
                codes[k] = signed_code(((a & 15) | (h & 3) << 4) - 32);
                codes[k + 32] = signed_code(((b & 15) | (h & 12) << 2) - 32);
                codes[k + 64] = signed_code((a >> 4 | (h & 48)) - 32);
                codes[k + 96] = signed_code((b >> 4 | (h & 192) >> 2) - 32);
            }
        }
        for (int s = 0; s < 16; ++s) to.scales[s] = from.scales[s];
        finish(to, from.d);
    }
}

void unpack_iq4_xs(const void* row, PanelRow* blocks, int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; ++i) {
        const block_iq4_xs& from = static_cast<const block_iq4_xs*>(row)[i];
        PanelRow& to = blocks[i];
        for (int s = 0; s < 8; ++s) {
            const uint8_t* packed = from.qs + 16 * s;
            for (int k = 0; k < 16; ++k) {
                to.codes[32 * s + k] = kvalues_iq4nl[packed[k] & 15];
                to.codes[32 * s + 16 + k] = kvalues_iq4nl[packed[k] >> 4];
            }
            const int low = from.scales_l[s / 2] >> (4 * (s % 2)) & 15;
            put_scale_of_32(to, s, (low | (from.scales_h >> (2 * s) & 3) << 4) - 32);
        }
        finish(to, from.d);
    }
}

void unpack_iq3_s(const void* row, PanelRow* blocks, int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; ++i) {
        const block_iq3_s& from = static_cast<const block_iq3_s*>(row)[i];
        PanelRow& to = blocks[i];
        for (int e = 0; e < 32; ++e) {  // eights
            const int high = from.qh[e / 4] >> (2 * (e % 4));
            const int first = from.qs[2 * e] | (high & 1) << 8;
            const int second = from.qs[2 * e + 1] | (high >> 1 & 1) << 8;
            const uint64_t grid = two_of(iq3s_grid[first], iq3s_grid[second]);
            put_grid(bytes_of(grid), from.signs[e], to.codes + 8 * e);
        }
        for (int s = 0; s < 8; ++s) {
            put_scale_of_32(to, s, 1 + 2 * (from.scales[s / 2] >> (4 * (s % 2)) & 15));
        }
        finish(to, from.d);
    }
}

void unpack_iq3_xxs(const void* row, PanelRow* blocks, int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; ++i) {
        const block_iq3_xxs& from = static_cast<const block_iq3_xxs*>(row)[i];
        PanelRow& to = blocks[i];
        for (int s = 0; s < 8; ++s) {
            const uint32_t signs = word(from.qs + QK_K / 4 + 4 * s);
            for (int l = 0; l < 4; ++l) {
                const uint8_t* q = from.qs + 8 * s + 2 * l;
                const uint64_t grid = two_of(iq3xxs_grid[q[0]], iq3xxs_grid[q[1]]);
                put_grid(bytes_of(grid), ksigns_iq2xs[signs >> (7 * l) & 127],
                         to.codes + 32 * s + 8 * l);
            }
            put_scale_of_32(to, s, static_cast<int>(2 * (signs >> 28) + 1));
        }
        finish(to, from.d, 0.25f);
    }
}

void unpack_iq2_s(const void* row, PanelRow* blocks, int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; ++i) {
        const block_iq2_s& from = static_cast<const block_iq2_s*>(row)[i];
        PanelRow& to = blocks[i];
        for (int e = 0; e < 32; ++e) {  // eights
            const int high = from.qh[e / 4] >> (2 * (e % 4)) & 3;
            put_grid(bytes_of(iq2s_grid[from.qs[e] | high << 8]), from.qs[QK_K / 8 + e],
                     to.codes + 8 * e);
        }
        for (int s = 0; s < 16; ++s) {
            to.scales[s] = 2 * (from.scales[s / 2] >> (4 * (s % 2)) & 15) + 1;
        }
        finish(to, from.d, 0.125f);
    }
}

void unpack_iq2_xs(const void* row, PanelRow* blocks, int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; ++i) {
        const block_iq2_xs& from = static_cast<const block_iq2_xs*>(row)[i];
        PanelRow& to = blocks[i];
        for (int e = 0; e < 32; ++e) {  // eights
            put_grid(bytes_of(iq2xs_grid[from.qs[e] & 511]), ksigns_iq2xs[from.qs[e] >> 9],
                     to.codes + 8 * e);
        }
        for (int s = 0; s < 16; ++s) {
            to.scales[s] = 2 * (from.scales[s / 2] >> (4 * (s % 2)) & 15) + 1;
        }
        finish(to, from.d, 0.125f);
    }
}

void unpack_iq2_xxs(const void* row, PanelRow* blocks, int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; ++i) {
        const block_iq2_xxs& from = static_cast<const block_iq2_xxs*>(row)[i];
        PanelRow& to = blocks[i];
        for (int s = 0; s < 8; ++s) {
            const uint32_t grids = word(from.qs + 4 * s), signs = word(from.qs + 4 * s + 2);
            for (int l = 0; l < 4; ++l) {
                put_grid(bytes_of(iq2xxs_grid[grids >> (8 * l) & 255]),
                         ksigns_iq2xs[signs >> (7 * l) & 127], to.codes + 32 * s + 8 * l);
            }
            put_scale_of_32(to, s, static_cast<int>(2 * (signs >> 28) + 1));
        }
        finish(to, from.d, 0.125f);
    }
}

// Four codes of each of sixteen columns: a transposed table of 32-bit words, plus 128 in each byte.
void take_panel_columns(const void* const* columns, int n_columns, PanelColumns* panel,
                        int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; ++i) {
        for (int c = 0; c < kPanelColumns; ++c) {
            const int from = c < n_columns ? c : 0;  // what nobody asks for is never read
            const block_q8_K& block = static_cast<const block_q8_K*>(columns[from])[i];
            panel[i].d[c] = block.d;
            for (int s = 0; s < 16; ++s) panel[i].sums[s][c] = block.bsums[s];
            for (int g = 0; g < 64; ++g) {
                const uint32_t codes = word(block.qs + 4 * g) ^ 0x80808080u;
                __builtin_memcpy(panel[i].codes[g][c], &codes, sizeof(codes));
            }
        }
    }
}

}  // namespace apex::kernels
