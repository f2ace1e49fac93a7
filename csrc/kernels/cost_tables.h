// The cost of each level at each position of a group, added up for a vector of candidates at a
// time.
#pragma once

#include <cmath>

#include "simd.h"

namespace apex::kernels::APEX_ISA {

// Bits per level: 2 (eight positions) or 3 (four positions), so 32 pairs of position and level.
// Vector v of them holds positions v * kLanes / kLevels and on, all levels of each side by side.
template <int Bits>
struct LevelLayout {
    static constexpr int kPositions = Bits == 2 ? 8 : 4;
    static constexpr int kLevels = 1 << Bits;
    static constexpr int kVectors = kPositions * kLevels / kLanes;
};

#if defined(__aarch64__)

// Each position's value, beside every one of its levels. p: kPositions floats.
template <int Bits>
class Repeated {
  public:
    explicit Repeated(const float* values)
        : first_(vld1q_f32(values)), last_(vld1q_f32(values + LevelLayout<Bits>::kPositions - 4)) {}
    F32 operator[](int v) const {
        if (Bits == 3) return F32(first_[v]);
        const float32x4_t four = v < 2 ? first_ : last_;
        return {vdupq_n_f32(four[2 * v % 4]), vdupq_n_f32(four[2 * v % 4 + 1])};
    }

  private:
    float32x4_t first_, last_;
};

// A position's costs are a table in registers, looked up byte by byte: the level comes to bits 2
// and up of every byte of a lane, over the number of the byte.
template <int Bits>
class CostTables {
    using Layout = LevelLayout<Bits>;

  public:
    // cost(v): vector v of the costs.
    template <typename Cost>
    explicit CostTables(const Cost& cost) {
        if constexpr (Bits == 2) {
            for (int v = 0; v < Layout::kVectors; ++v) {
                const F32 c = cost(v);
                costs_[2 * v] = vreinterpretq_u8_f32(c.lo);
                costs_[2 * v + 1] = vreinterpretq_u8_f32(c.hi);
            }
        } else {
            // Through memory: GCC puts tables that are loaded into neighbouring registers, as they
            // have to be, and copies others before every use.
            alignas(16) float costs[Layout::kPositions * Layout::kLevels];
            for (int v = 0; v < Layout::kVectors; ++v) store(costs + v * kLanes, cost(v));
            for (int i = 0; i < Layout::kPositions; ++i) {
                costs_[i] = table(costs + i * Layout::kLevels);
            }
        }
    }

    // codes: kLanes of them, of which count matter; infinity for some of the others. Sums run from
    // the first position to the last.
    F32 sum(const uint16_t* codes, int count) const {
        const uint16x8_t words = vld1q_u16(codes);
        const auto cost = [&](int position, uint8x16_t at) {
            return look_up(costs_[position], at);
        };
        if (count <= 4) return {sum_of_four(words, 0, cost), vdupq_n_f32(INFINITY)};
        return {sum_of_four(words, 0, cost), sum_of_four(words, 8, cost)};
    }

    // The sums of two kinds of costs that lie in memory, by position and level. Where there is no
    // candidate some of them are 0 and -infinity.
    [[gnu::always_inline]] static void sum_both(const float* costs, const float* others,
                                                const uint16_t* codes, int count, F32* sums,
                                                F32* other_sums) {
        const uint16x8_t words = vld1q_u16(codes);
        const auto add_four = [&](int first, float32x4_t* sum, float32x4_t* other_sum) {
            const auto other = [&](int position, uint8x16_t at) {
                return look_up(table(others + position * Layout::kLevels), at);
            };
            float32x4_t total;
            *sum = sum_of_four(words, first, [&](int position, uint8x16_t at) {
                const float32x4_t cost = other(position, at);
                total = position == 0 ? cost : vaddq_f32(total, cost);
                return look_up(table(costs + position * Layout::kLevels), at);
            });
            *other_sum = total;
        };
        add_four(0, &sums->lo, &other_sums->lo);
        sums->hi = vdupq_n_f32(0.0f);
        other_sums->hi = vdupq_n_f32(-INFINITY);
        if (count > 4) add_four(8, &sums->hi, &other_sums->hi);
    }

  private:
    static uint8x16_t each_four_times(uint16x8_t words, int byte) {
        const uint8x16_t which = {0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6};
        return vqtbl1q_u8(vreinterpretq_u8_u16(words),
                          which + vdupq_n_u8(static_cast<uint8_t>(byte)));
    }

    // The bytes that hold a position's level, moved so that it starts at bit 2.
    static uint8x16_t index(uint8x16_t bytes, int bit) {
        const uint8x16_t moved = bit < 2 ? bytes << (2 - bit) : bytes >> (bit - 2);
        const uint8x16_t number = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
        return vbslq_u8(vdupq_n_u8(4 * (Layout::kLevels - 1)), moved, number);
    }

    static auto table(const float* costs) {
        const auto* bytes = reinterpret_cast<const uint8_t*>(costs);
        if constexpr (Bits == 2) {
            return vld1q_u8(bytes);
        } else {
            return vld1q_u8_x2(bytes);
        }
    }

    template <typename Table>
    static float32x4_t look_up(const Table& table, uint8x16_t at) {
        if constexpr (Bits == 2) {
            return vreinterpretq_f32_u8(vqtbl1q_u8(table, at));
        } else {
            return vreinterpretq_f32_u8(vqtbl2q_u8(table, at));
        }
    }

    // first: the byte number of the first of four codes.
    template <typename Cost>
    [[gnu::always_inline]] static float32x4_t sum_of_four(uint16x8_t words, int first,
                                                          const Cost& cost) {
        constexpr int kPerByte = Layout::kPositions / 2;
        const uint8x16_t low = each_four_times(words, first);
        const uint8x16_t high = Bits == 2 ? each_four_times(words, first + 1)
                                          : each_four_times(vshrq_n_u16(words, 6), first);
        float32x4_t sum = cost(0, index(low, 0));
        for (int i = 1; i < Layout::kPositions; ++i) {
            const uint8x16_t bytes = i < kPerByte ? low : high;
            sum = vaddq_f32(sum, cost(i, index(bytes, Bits * (i % kPerByte))));
        }
        return sum;
    }

    decltype(table(nullptr)) costs_[Layout::kPositions];
};

#else

template <int Bits>
class Repeated {
    using Layout = LevelLayout<Bits>;

  public:
    explicit Repeated(const float* values) : table_(table8(values)) {}
    F32 operator[](int v) const { return lookup(table_, load(kPosition + v * kLanes)); }

  private:
    alignas(64) static constexpr int32_t kPosition[32] = {
        0 >> Bits,  1 >> Bits,  2 >> Bits,  3 >> Bits,  4 >> Bits,  5 >> Bits,  6 >> Bits,
        7 >> Bits,  8 >> Bits,  9 >> Bits,  10 >> Bits, 11 >> Bits, 12 >> Bits, 13 >> Bits,
        14 >> Bits, 15 >> Bits, 16 >> Bits, 17 >> Bits, 18 >> Bits, 19 >> Bits, 20 >> Bits,
        21 >> Bits, 22 >> Bits, 23 >> Bits, 24 >> Bits, 25 >> Bits, 26 >> Bits, 27 >> Bits,
        28 >> Bits, 29 >> Bits, 30 >> Bits, 31 >> Bits};
    Table8 table_;
};

template <int Bits>
class CostTables {
    using Layout = LevelLayout<Bits>;

  public:
    template <typename Cost>
    explicit CostTables(const Cost& cost) {
        alignas(64) float costs[Layout::kPositions * Layout::kLevels];
        for (int v = 0; v < Layout::kVectors; ++v) store(costs + v * kLanes, cost(v));
        for (int i = 0; i < Layout::kPositions; ++i) at_[i] = table(costs + i * Layout::kLevels);
    }

    F32 sum(const uint16_t* list, int) const {
        const I32 codes = load_u16(list);
        F32 s = lookup(at_[0], codes);
        for (int i = 1; i < Layout::kPositions; ++i) s = s + lookup(at_[i], codes >> (Bits * i));
        return s;
    }

    static void sum_both(const float* costs, const float* others, const uint16_t* list, int,
                         F32* sums, F32* other_sums) {
        const I32 codes = load_u16(list);
        F32 sum = lookup(table(costs), codes), other_sum = lookup(table(others), codes);
        for (int i = 1; i < Layout::kPositions; ++i) {
            const I32 levels = codes >> (Bits * i);
            sum = sum + lookup(table(costs + i * Layout::kLevels), levels);
            other_sum = other_sum + lookup(table(others + i * Layout::kLevels), levels);
        }
        *sums = sum;
        *other_sums = other_sum;
    }

  private:
    static auto table(const float* costs) {
        if constexpr (Bits == 2) {
            return table4(costs);
        } else {
            return table8(costs);
        }
    }

    decltype(table(nullptr)) at_[Layout::kPositions];
};

#endif

}  // namespace apex::kernels::APEX_ISA
