// Rows of a scalar format in lanes: what is known of them, how they are read and written.
//
// No std templates of plain types here: a symbol that the builds for two instruction sets share
// would let the linker put one's code on the other's path. Lanes are a type of their own in each.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "moments/feedback.h"
#include "moments/scalar_block.h"

namespace apex::feedback::APEX_FEEDBACK_ISA {

inline int code_of(float level) {
    int code = 0;
    while (code < 15 && kCodeBook[code] < level) ++code;
    return code;
}

inline Lanes to_half(Lanes value) {
    for (int lane = 0; lane < kLanes; ++lane) {
        value[lane] = ggml_fp16_to_fp32(ggml_fp32_to_fp16(value[lane]));
    }
    return value;
}

// As many rows as there are lanes, and what has been found for them.
template <int kBlock>
class RowGroup {
  public:
    RowGroup(const ScalarFormat& format, const Search& search)
        : format_(format),
          search_(search),
          n_(static_cast<int>(search.basis->n)),
          n_blocks_(n_ / kBlock),
          n_supers_(n_ / format.super_block()) {
        weights_.resize(size(n_));
        work_.resize(size(n_));
        levels_.resize(size(n_));
        gradient_.resize(size(n_));
        product_.resize(size(n_));
        minima_product_.resize(size(n_));
        s_.resize(size(n_blocks_));
        m_.resize(size(n_blocks_));
        d_.resize(size(n_supers_));
        dm_.resize(size(n_supers_));
    }

    void read(const float* weights, int n_rows, const uint8_t* start, size_t row_bytes);
    void feed_forward();
    void refine();
    Lanes cost();
    void write(int lane, uint8_t* result) const;

  private:
    static size_t size(int n) { return static_cast<size_t>(n); }
    int super_of(int block) const { return block / format_.n_blocks; }
    Lanes scale(int block) const { return d_[size(super_of(block))] * s_[size(block)]; }
    Lanes minimum(int block) const { return dm_[size(super_of(block))] * m_[size(block)]; }
    Lanes restored(int column) const {
        const int block = column / kBlock;
        return scale(block) * levels_[size(column)] - minimum(block);
    }
    const float* block_root(int block) const {
        return search_.blocks->root.data() + block * kBlock * kBlock;
    }
    const float* moment_row(int column) const {
        return search_.basis->moment.data() + static_cast<int64_t>(column) * n_;
    }

    struct Choice {
        Lanes cost, d, s, m;
        Lanes levels[kBlock];
    };
    void choose(int block, const float* root, const float* pivots, const Lanes* target, int radius,
                bool both_signs, Choice& best) const;
    void try_scale(const float* root, const float* pivots, const Lanes* target, Lanes d, Lanes s,
                   Lanes dm, Lanes m, Choice& best) const;
    void take(int block, const Choice& choice);
    void take_present(int block, Choice& choice) const;
    void pivots_of(const float* root, int stride, float* pivots) const;
    bool refine_block(int block);
    bool refine_levels(int block, Lanes* old, Lanes* gradient);
    bool spread(int block, const Lanes* change, const Lanes* gradient);
    bool refit(int super);
    void multiply(int super, const Lanes* values, int begin, int end, Lanes* product) const;
    void set_gradient();

    const ScalarFormat& format_;
    const Search& search_;
    int n_, n_blocks_, n_supers_;
    std::vector<Lanes> weights_, work_, levels_, gradient_, product_, minima_product_;
    std::vector<Lanes> s_, m_, d_, dm_;
};

template <int kBlock>
void RowGroup<kBlock>::read(const float* weights, int n_rows, const uint8_t* start,
                            size_t row_bytes) {
    for (int lane = 0; lane < kLanes; ++lane) {
        const int row = lane < n_rows ? lane : n_rows - 1;
        for (int i = 0; i < n_; ++i) weights_[size(i)][lane] = weights[int64_t{row} * n_ + i];
        const uint8_t* stored = start + size(row) * row_bytes;
        for (int super = 0; super < n_supers_; ++super) {
            ScalarBlock block;
            read_scales(format_, stored + size(super) * ggml_type_size(format_.type), block);
            d_[size(super)][lane] = block.d;
            dm_[size(super)][lane] = block.dm;
            for (int i = 0; i < format_.n_blocks; ++i) {
                s_[size(super * format_.n_blocks + i)][lane] = static_cast<float>(block.s[i]);
                m_[size(super * format_.n_blocks + i)][lane] = static_cast<float>(block.m[i]);
            }
        }
    }
}

template <int kBlock>
void RowGroup<kBlock>::write(int lane, uint8_t* result) const {
    for (int super = 0; super < n_supers_; ++super) {
        ScalarBlock block;
        block.d = d_[size(super)][lane];
        block.dm = dm_[size(super)][lane];
        for (int i = 0; i < format_.n_blocks; ++i) {
            block.s[i] = static_cast<int>(s_[size(super * format_.n_blocks + i)][lane]);
            block.m[i] = static_cast<int>(m_[size(super * format_.n_blocks + i)][lane]);
        }
        for (int i = 0; i < format_.super_block(); ++i) {
            const float level = levels_[size(super * format_.super_block() + i)][lane];
            block.codes[i] = static_cast<uint8_t>(format_.has_code_book ? code_of(level)
                                                                        : static_cast<int>(level) -
                                                                              format_.min_level);
        }
        write_block(format_, block, result + size(super) * ggml_type_size(format_.type));
    }
}

}  // namespace apex::feedback::APEX_FEEDBACK_ISA
