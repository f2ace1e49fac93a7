// Rows on which quantizers are likely to differ, quantized by ggml: what the differential tests of
// the CPU's kernels and of the GPU's share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "ggml.h"
#include "kernels/quantized_types.h"

namespace apex::tests {

using Random = std::mt19937_64;

inline std::vector<ggml_type> all_types() {
    std::vector<ggml_type> types;
    for (const kernels::QuantizedType& known : kernels::kQuantizedTypes)
        types.push_back(known.type);
    return types;
}

enum class Data {
    gaussian,
    heavy_tailed,
    uniform,
    constant,
    all_zero,
    single_outlier,
    denormal,
    signed_zero,
    bf16_ties,
    mixed_scales,
    one_sided,
    tiny,
    huge,
    count
};
enum class Matrix { positive, with_zeros, huge_range, all_equal, tiny_range, count };

inline const char* const kDataNames[] = {"gaussian",  "heavy_tailed",   "uniform",   "constant",
                                         "all_zero",  "single_outlier", "denormal",  "signed_zero",
                                         "bf16_ties", "mixed_scales",   "one_sided", "tiny",
                                         "huge"};
inline const char* const kMatrixNames[] = {"positive", "with_zeros", "huge_range", "all_equal",
                                           "tiny_range"};

inline float uniform(Random& r, float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(r);
}
inline float gaussian(Random& r) {
    return std::normal_distribution<float>(0.0f, 1.0f)(r);
}

// Rounded to eight bits of mantissa: model weights are stored like this, so values tie often.
inline float to_bf16(float x) {
    uint32_t b;
    std::memcpy(&b, &x, 4);
    b = (b + 0x7fff + ((b >> 16) & 1)) & 0xffff0000u;
    std::memcpy(&x, &b, 4);
    return x;
}

inline float value(Data kind, Random& r, float scale, int64_t column, int64_t outlier) {
    switch (kind) {
        case Data::gaussian:
            return scale * gaussian(r);
        case Data::heavy_tailed:
            return scale * gaussian(r) / (std::fabs(gaussian(r)) + 1e-3f);
        case Data::uniform:
            return uniform(r, -scale, scale);
        case Data::constant:
            return scale;
        case Data::all_zero:
            return 0.0f;
        case Data::single_outlier:
            return column == outlier ? 1000 * scale : 0.001f * scale * gaussian(r);
        case Data::denormal:
            return std::numeric_limits<float>::denorm_min() * std::floor(uniform(r, -5e6f, 5e6f));
        case Data::signed_zero: {
            const float u = uniform(r, 0, 1);
            return u < 0.4f ? 0.0f : u < 0.8f ? -0.0f : scale * gaussian(r);
        }
        case Data::bf16_ties:
            return to_bf16(scale * gaussian(r));
        case Data::mixed_scales:  // a few dozen binades within one super-block
            return gaussian(r) * std::ldexp(scale, static_cast<int>(uniform(r, -20, 20)));
        case Data::one_sided:  // narrow range far from zero: the scale and min search's odd corner
            return -scale * (1.0f + 0.01f * uniform(r, 0, 1));
        case Data::tiny:  // around GROUP_MAX_EPS, where ggml gives a group up as zero
            return 1e-15f * gaussian(r) * std::ldexp(1.0f, 4 * static_cast<int>(column / 64 % 5));
        case Data::huge:
            return 1e6f * scale * gaussian(r);
        case Data::count:
            break;
    }
    return 0.0f;
}

inline void fill(Data kind, Random& r, int64_t nrows, int64_t width, std::vector<float>& rows) {
    rows.resize(nrows * width);
    for (int64_t row = 0; row < nrows; ++row) {
        const float scale = std::exp(uniform(r, -6, 2)) * (uniform(r, 0, 1) < 0.3f ? -1.0f : 1.0f);
        const int64_t outlier = static_cast<int64_t>(uniform(r, 0, 0.999f) * width);
        for (int64_t i = 0; i < width; ++i) {
            rows[row * width + i] = value(kind, r, scale, i, outlier);
        }
    }
}

inline void fill(Matrix kind, Random& r, int64_t width, std::vector<float>& matrix) {
    matrix.resize(width);
    for (float& m : matrix) {
        switch (kind) {
            case Matrix::positive:
                m = uniform(r, 0.01f, 2.0f);
                break;
            case Matrix::with_zeros:
                m = uniform(r, 0, 1) < 0.5f ? 0.0f : uniform(r, 0.0f, 2.0f);
                break;
            case Matrix::huge_range:
                m = std::exp(uniform(r, -20, 20));
                break;
            case Matrix::all_equal:
                m = 1.0f;
                break;
            default:
                m = 1e-12f * uniform(r, 0.5f, 1.0f);
                break;
        }
    }
}

// Rows quantized by ggml, and all that is needed to describe one that differs.
struct Chunk {
    ggml_type type;
    Data data;
    const char* matrix_name;
    int64_t nrows, width;
    std::vector<float> rows, matrix;
    std::vector<uint8_t> stock;

    size_t row_size() const { return ggml_row_size(type, width); }
    const float* imatrix() const { return matrix.empty() ? nullptr : matrix.data(); }
};

// Mostly one or two super-blocks: more rows for the time, and batches that cross rows.
inline constexpr int64_t kWidths[] = {256, 256, 256, 256, 256, 256,  256,  256,  256,  256,
                                      512, 512, 512, 768, 768, 1024, 1280, 2048, 4096, 8192};
inline constexpr int kWidthCount = sizeof(kWidths) / sizeof(kWidths[0]);

// Rows and a matrix; stock has its size but is not filled.
inline Chunk make_rows(ggml_type type, Data data, bool with_imatrix, Random& r) {
    Chunk chunk{type, data, "none", 0, kWidths[r() % kWidthCount], {}, {}, {}};
    chunk.nrows = 1 + static_cast<int64_t>(r() % static_cast<uint64_t>(1 + 16384 / chunk.width));
    if (ggml_blck_size(type) == 32 && r() % 2) chunk.width -= 32 * static_cast<int64_t>(r() % 7);
    fill(data, r, chunk.nrows, chunk.width, chunk.rows);
    const auto matrix = static_cast<Matrix>(r() % static_cast<int>(Matrix::count));
    if (with_imatrix) {
        chunk.matrix_name = kMatrixNames[static_cast<int>(matrix)];
        fill(matrix, r, chunk.width, chunk.matrix);
    }
    chunk.stock.assign(static_cast<size_t>(chunk.nrows) * chunk.row_size(), 0xAA);
    return chunk;
}

inline Chunk make_chunk(ggml_type type, Data data, bool with_imatrix, Random& r) {
    Chunk chunk = make_rows(type, data, with_imatrix, r);
    ggml_quantize_chunk(type, chunk.rows.data(), chunk.stock.data(), 0, chunk.nrows, chunk.width,
                        chunk.imatrix());
    return chunk;
}

inline void print_difference(const Chunk& chunk, const char* isa, int64_t row, const uint8_t* stock,
                             const uint8_t* own, uint64_t seed) {
    size_t at = 0;
    while (stock[at] == own[at]) ++at;
    std::printf(
        "  %s %s: data %s, matrix %s, width %lld, row %lld of %lld: byte %zu is %02x, ggml "
        "has %02x (seed %llu)\n",
        isa, ggml_type_name(chunk.type), kDataNames[static_cast<int>(chunk.data)],
        chunk.matrix_name, (long long)chunk.width, (long long)row, (long long)chunk.nrows, at,
        own[at], stock[at], (unsigned long long)seed);
}

}  // namespace apex::tests
