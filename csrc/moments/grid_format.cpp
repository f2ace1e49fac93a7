#include "moments/grid_format.h"

#include <cstring>

#define GGML_COMMON_DECL_CPP
#define GGML_COMMON_IMPL_CPP
#include "ggml-common.h"

namespace apex {
namespace {

// A grid's points as floats, in both orders.
struct Points {
    std::vector<float> levels, columns;

    template <class Entry>
    Points(const Entry* grid, int n_points) {
        constexpr int kPoint = sizeof(Entry);
        levels.resize(static_cast<size_t>(n_points * kPoint));
        columns.resize(levels.size());
        for (int p = 0; p < n_points; ++p) {
            int8_t bytes[kPoint];
            std::memcpy(bytes, grid + p, kPoint);
            for (int i = 0; i < kPoint; ++i) {
                levels[static_cast<size_t>(p * kPoint + i)] = bytes[i];
                columns[static_cast<size_t>(i * n_points + p)] = bytes[i];
            }
        }
    }
};

GridFormat make(ggml_type type, int block, int point, float step, int max_scale, GridSigns signs,
                const Points& points) {
    return {type,
            block,
            point,
            step,
            max_scale,
            signs,
            static_cast<int>(points.levels.size()) / point,
            points.levels.data(),
            points.columns.data()};
}

void write_half(float value, uint8_t* stored) {
    const ggml_fp16_t half = ggml_fp32_to_fp16(value);
    std::memcpy(stored, &half, sizeof(half));
}

void or_into(uint8_t& byte, int bits) {
    byte = static_cast<uint8_t>(byte | bits);
}

void write_nibble_scales(const GridBlock& block, int n, uint8_t* scales) {
    for (int i = 0; i < n; ++i) or_into(scales[i / 2], block.s[i] << (i % 2 * 4));
}

// d, 64 bytes of qs (places, then signs), qh, scales
void write_iq2_s(const GridBlock& block, uint8_t* stored) {
    for (int i = 0; i < 32; ++i) {
        const GridGroup& group = block.groups[i];
        stored[2 + i] = static_cast<uint8_t>(group.first & 255);
        stored[34 + i] = static_cast<uint8_t>(group.signs);
        or_into(stored[66 + i / 4], (group.first >> 8) << (i % 4 * 2));
    }
    write_nibble_scales(block, 16, stored + 74);
}

// d, 32 words of 9 bits place and 7 signs, scales
void write_iq2_xs(const GridBlock& block, uint8_t* stored) {
    for (int i = 0; i < 32; ++i) {
        const GridGroup& group = block.groups[i];
        const auto word = static_cast<uint16_t>(group.first | (group.signs & 127) << 9);
        std::memcpy(stored + 2 + 2 * i, &word, sizeof(word));
    }
    write_nibble_scales(block, 16, stored + 66);
}

uint32_t signs_and_scale(const GridBlock& block, int i) {
    uint32_t word = static_cast<uint32_t>(block.s[i]) << 28;
    for (int k = 0; k < 4; ++k) {
        word |= static_cast<uint32_t>(block.groups[4 * i + k].signs & 127) << (7 * k);
    }
    return word;
}

// d, and for every 32 weights 4 places and a word of signs and scale
void write_iq2_xxs(const GridBlock& block, uint8_t* stored) {
    for (int i = 0; i < 8; ++i) {
        for (int k = 0; k < 4; ++k) {
            stored[2 + 8 * i + k] = static_cast<uint8_t>(block.groups[4 * i + k].first);
        }
        const uint32_t word = signs_and_scale(block, i);
        std::memcpy(stored + 2 + 8 * i + 4, &word, sizeof(word));
    }
}

// d, 64 places, 8 words of signs and scale
void write_iq3_xxs(const GridBlock& block, uint8_t* stored) {
    for (int i = 0; i < 32; ++i) {
        stored[2 + 2 * i] = static_cast<uint8_t>(block.groups[i].first);
        stored[3 + 2 * i] = static_cast<uint8_t>(block.groups[i].second);
    }
    for (int i = 0; i < 8; ++i) {
        const uint32_t word = signs_and_scale(block, i);
        std::memcpy(stored + 66 + 4 * i, &word, sizeof(word));
    }
}

// d, 64 places, their ninth bits, signs, scales
void write_iq3_s(const GridBlock& block, uint8_t* stored) {
    for (int i = 0; i < 64; ++i) {
        const GridGroup& group = block.groups[i / 2];
        const int place = i % 2 ? group.second : group.first;
        stored[2 + i] = static_cast<uint8_t>(place & 255);
        or_into(stored[66 + i / 8], (place >> 8) << (i % 8));
    }
    for (int i = 0; i < 32; ++i) stored[74 + i] = static_cast<uint8_t>(block.groups[i].signs);
    write_nibble_scales(block, 8, stored + 106);
}

// d, 32 places, 8 words of four times 3 bits of a place, a scale and the shift
void write_iq1_s(const GridBlock& block, uint8_t* stored) {
    for (int i = 0; i < 8; ++i) {
        const GridGroup* groups = block.groups + 4 * i;
        int word = block.s[i] << 12 | groups[0].signs << 15;
        for (int k = 0; k < 4; ++k) {
            stored[2 + 4 * i + k] = static_cast<uint8_t>(groups[k].first & 255);
            word |= (groups[k].first >> 8) << (3 * k);
        }
        const auto half = static_cast<uint16_t>(word);
        std::memcpy(stored + 34 + 2 * i, &half, sizeof(half));
    }
}

// 32 places, nibbles of 3 bits of a place and the shift, 4 words of four scales and a nibble of d
void write_iq1_m(const GridBlock& block, uint8_t* stored) {
    for (int i = 0; i < 32; ++i) {
        const GridGroup& group = block.groups[i];
        stored[i] = static_cast<uint8_t>(group.first & 255);
        or_into(stored[32 + i / 2], (group.first >> 8 | group.signs << 3) << (i % 2 * 4));
    }
    const int d = ggml_fp32_to_fp16(block.d);
    for (int i = 0; i < 4; ++i) {
        int word = (d >> (4 * i) & 15) << 12;
        for (int k = 0; k < 4; ++k) word |= block.s[4 * i + k] << (3 * k);
        const auto scales = static_cast<uint16_t>(word);
        std::memcpy(stored + 48 + 2 * i, &scales, sizeof(scales));
    }
}

int word_at(const uint8_t* stored) {
    uint16_t word;
    std::memcpy(&word, stored, sizeof(word));
    return word;
}

void read_iq1_m_scales(const uint8_t* stored, GridBlock& block) {
    int d = 0;
    for (int i = 0; i < 4; ++i) {
        const int word = word_at(stored + 48 + 2 * i);
        d |= (word >> 12) << (4 * i);
        for (int k = 0; k < 4; ++k) block.s[4 * i + k] = word >> (3 * k) & 7;
    }
    block.d = ggml_fp16_to_fp32(static_cast<ggml_fp16_t>(d));
}

// Where the nibbles of scales lie, or the words whose highest four bits are one.
int place_of_scales(ggml_type type) {
    switch (type) {
        case GGML_TYPE_IQ2_S:
            return 74;
        case GGML_TYPE_IQ3_S:
            return 106;
        case GGML_TYPE_IQ3_XXS:
        case GGML_TYPE_IQ2_XS:
            return 66;
        default:
            return 6;
    }
}

}  // namespace

const GridFormat* grid_format(ggml_type type) {
    static const Points iq2_xxs(iq2xxs_grid, 256), iq2_xs(iq2xs_grid, 512), iq2_s(iq2s_grid, 1024);
    static const Points iq3_xxs(iq3xxs_grid, 256), iq3_s(iq3s_grid, 512);
    static const Points iq1(iq1s_grid, 2048);
    using Signs = GridSigns;
    static const GridFormat formats[] = {
        make(GGML_TYPE_IQ1_S, 32, 8, 1.0f, 7, Signs::block_shift, iq1),
        make(GGML_TYPE_IQ1_M, 16, 8, 1.0f, 7, Signs::group_shift, iq1),
        make(GGML_TYPE_IQ2_XXS, 32, 8, 0.125f, 15, Signs::even, iq2_xxs),
        make(GGML_TYPE_IQ2_XS, 16, 8, 0.125f, 15, Signs::even, iq2_xs),
        make(GGML_TYPE_IQ2_S, 16, 8, 0.125f, 15, Signs::each, iq2_s),
        make(GGML_TYPE_IQ3_XXS, 32, 4, 0.25f, 15, Signs::even, iq3_xxs),
        make(GGML_TYPE_IQ3_S, 32, 4, 1.0f, 15, Signs::each, iq3_s),
    };
    for (const GridFormat& format : formats) {
        if (format.type == type) return &format;
    }
    return nullptr;
}

void read_grid_scales(const GridFormat& format, const uint8_t* stored, GridBlock& block) {
    if (format.type == GGML_TYPE_IQ1_M) return read_iq1_m_scales(stored, block);
    block.d = ggml_fp16_to_fp32(static_cast<ggml_fp16_t>(word_at(stored)));
    const uint8_t* scales = stored + place_of_scales(format.type);
    for (int i = 0; i < 256 / format.block; ++i) {
        switch (format.type) {
            case GGML_TYPE_IQ1_S:
                block.s[i] = word_at(stored + 34 + 2 * i) >> 12 & 7;
                break;
            case GGML_TYPE_IQ2_XXS:
                block.s[i] = scales[8 * i + 3] >> 4;
                break;
            case GGML_TYPE_IQ3_XXS:
                block.s[i] = scales[4 * i + 3] >> 4;
                break;
            default:
                block.s[i] = scales[i / 2] >> (i % 2 * 4) & 15;
        }
    }
}

void write_grid_block(const GridFormat& format, const GridBlock& block, uint8_t* stored) {
    std::memset(stored, 0, ggml_type_size(format.type));
    if (format.type == GGML_TYPE_IQ1_M) return write_iq1_m(block, stored);
    write_half(block.d, stored);
    switch (format.type) {
        case GGML_TYPE_IQ1_S:
            return write_iq1_s(block, stored);
        case GGML_TYPE_IQ2_S:
            return write_iq2_s(block, stored);
        case GGML_TYPE_IQ2_XS:
            return write_iq2_xs(block, stored);
        case GGML_TYPE_IQ2_XXS:
            return write_iq2_xxs(block, stored);
        case GGML_TYPE_IQ3_XXS:
            return write_iq3_xxs(block, stored);
        default:
            return write_iq3_s(block, stored);
    }
}

}  // namespace apex
