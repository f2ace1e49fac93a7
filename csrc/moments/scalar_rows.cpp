// The search for scalar formats. No std templates of plain types here: see scalar_group.h.
#include "moments/scalar_group.h"

namespace apex::feedback::APEX_FEEDBACK_ISA {
namespace {

// Step between the scales that are tried where a type has no integer scales.
constexpr float kScaleStep = 0.03f;

// A change has to be worth this share of a block's cost.
constexpr float kWorthwhile = 0.9999f;

}  // namespace

template <int kBlock>
void RowGroup<kBlock>::pivots_of(const float* root, int stride, float* pivots) const {
    for (int j = 0; j < kBlock; ++j) pivots[j] = 1.0f / root[j * stride + j];
}

template <int kBlock>
void RowGroup<kBlock>::try_scale(const float* root, const float* pivots, const Lanes* target,
                                 Lanes d, Lanes s, Lanes dm, Lanes m, Choice& best) const {
    Lanes weights[kBlock], levels[kBlock];
    std::memcpy(weights, target, sizeof(weights));
    const Lanes cost =
        quantize_block<kBlock>(format_, root, pivots, weights, d * s, dm * m, levels, nullptr);
    const Mask better = cost < best.cost;
    if (!any(better)) return;
    best.cost = pick(better, cost, best.cost);
    best.d = pick(better, d, best.d);
    best.s = pick(better, s, best.s);
    best.m = pick(better, m, best.m);
    for (int j = 0; j < kBlock; ++j) best.levels[j] = pick(better, levels[j], best.levels[j]);
}

// The best scale (and minimum) near the block's present one for these targets.
template <int kBlock>
void RowGroup<kBlock>::choose(int block, const float* root, const float* pivots,
                              const Lanes* target, int radius, bool both_signs,
                              Choice& best) const {
    const Lanes d = d_[size(super_of(block))], dm = dm_[size(super_of(block))];
    const Lanes s = s_[size(block)], m = m_[size(block)];
    for (int sign = 0; sign < (both_signs ? 2 : 1); ++sign) {
        for (int step = -radius; step <= radius; ++step) {
            if (!format_.has_integers) {
                const float factor = 1.0f + kScaleStep * static_cast<float>(step);
                try_scale(root, pivots, target, to_half(d * (sign ? -factor : factor)), s, dm, m,
                          best);
                continue;
            }
            const Lanes tried =
                clamp((sign ? -s : s) + static_cast<float>(step),
                      static_cast<float>(format_.min_scale), static_cast<float>(format_.max_scale));
            const int m_radius = format_.has_minimum ? radius : 0;
            for (int m_step = -m_radius; m_step <= m_radius; ++m_step) {
                const Lanes tried_m = clamp(m + static_cast<float>(m_step), 0.0f,
                                            static_cast<float>(format_.max_minimum));
                try_scale(root, pivots, target, d, tried, dm, tried_m, best);
            }
        }
    }
}

template <int kBlock>
void RowGroup<kBlock>::take_present(int block, Choice& choice) const {
    choice.d = d_[size(super_of(block))];
    choice.s = s_[size(block)];
    choice.m = m_[size(block)];
    std::copy_n(levels_.begin() + block * kBlock, kBlock, choice.levels);
}

template <int kBlock>
void RowGroup<kBlock>::take(int block, const Choice& choice) {
    if (!format_.has_integers) d_[size(super_of(block))] = choice.d;
    s_[size(block)] = choice.s;
    m_[size(block)] = choice.m;
    std::copy(choice.levels, choice.levels + kBlock, levels_.begin() + block * kBlock);
}

// Block after block, each error made good in all columns that follow.
template <int kBlock>
void RowGroup<kBlock>::feed_forward() {
    work_ = weights_;
    const float* root = search_.basis->root.data();
    for (int block = 0; block < n_blocks_; ++block) {
        const int first = block * kBlock;
        float upper[kBlock * kBlock], pivots[kBlock];
        for (int j = 0; j < kBlock; ++j) {
            for (int k = 0; k < kBlock; ++k) {
                upper[j * kBlock + k] = root[int64_t{first + k} * n_ + first + j];
            }
        }
        pivots_of(upper, kBlock, pivots);
        Choice best;
        best.cost = all(3e38f);
        take_present(block, best);
        choose(block, upper, pivots, work_.data() + first, search_.effort.scale_radius,
               !format_.has_minimum, best);
        take(block, best);
        Lanes target[kBlock], levels[kBlock], errors[kBlock];
        std::memcpy(target, work_.data() + first, sizeof(target));
        quantize_block<kBlock>(format_, upper, pivots, target, scale(block), minimum(block), levels,
                               errors);
        for (int q = first + kBlock; q < n_; ++q) {
            const float* row = root + int64_t{q} * n_ + first;
            Lanes value = work_[size(q)];
            for (int j = 0; j < kBlock; ++j) value -= errors[j] * row[j];
            work_[size(q)] = value;
        }
    }
}

template <int kBlock>
void RowGroup<kBlock>::set_gradient() {
    for (int i = 0; i < n_; ++i) work_[size(i)] = weights_[size(i)] - restored(i);
    for (int i = 0; i < n_; ++i) {
        const float* row = moment_row(i);
        Lanes sums[4] = {};
        for (int j = 0; j < n_; j += 4) {
            for (int k = 0; k < 4; ++k) sums[k] += row[j + k] * work_[size(j + k)];
        }
        gradient_[size(i)] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
}

// Better levels one by one, the rest of the block as it is.
template <int kBlock>
bool RowGroup<kBlock>::refine_levels(int block, Lanes* old, Lanes* gradient) {
    const int first = block * kBlock;
    const Lanes step = scale(block), shift = minimum(block), inverse_step = inverse(step);
    const Mask dead = step == all(0.0f);
    bool changed = false;
    for (int i = 0; i < kBlock; ++i) {
        const float* row = moment_row(first + i) + first;
        const Lanes wanted = old[i] + gradient[i] * (1.0f / row[i]);
        Lanes& level = levels_[size(first + i)];
        const Lanes better =
            pick(dead, level, nearest_level(format_, (wanted + shift) * inverse_step));
        const Lanes change = step * (better - level);
        if (!any(change != all(0.0f))) continue;
        changed = true;
        level = better;
        old[i] += change;
        for (int j = 0; j < kBlock; ++j) gradient[j] -= change * row[j];
    }
    return changed;
}

// The columns outside a block learn how it changed. After the first pass few of its columns have.
template <int kBlock>
bool RowGroup<kBlock>::spread(int block, const Lanes* change, const Lanes* gradient) {
    const int first = block * kBlock;
    int n_changed = 0, places[kBlock];
    Lanes changes[kBlock];
    for (int j = 0; j < kBlock; ++j) {
        if (!any(change[j] != all(0.0f))) continue;
        places[n_changed] = j;
        changes[n_changed++] = change[j];
    }
    if (n_changed == 0) return false;
    for (int q = 0; q < n_; ++q) {
        if (q == first) q += kBlock;
        if (q >= n_) break;
        const float* row = moment_row(q) + first;
        Lanes value = gradient_[size(q)];
        for (int k = 0; k < n_changed; ++k) value -= changes[k] * row[places[k]];
        gradient_[size(q)] = value;
    }
    std::copy(gradient, gradient + kBlock, gradient_.begin() + first);
    return true;
}

// Another scale, minimum and levels for a block while all others stay.
template <int kBlock>
bool RowGroup<kBlock>::refine_block(int block) {
    const int first = block * kBlock;
    const float* root = block_root(block);
    const float* inverse_moment = search_.blocks->inverse.data() + block * kBlock * kBlock;
    float pivots[kBlock];
    pivots_of(root, kBlock, pivots);
    Lanes before[kBlock], old[kBlock], target[kBlock], gradient[kBlock], change[kBlock];
    std::copy_n(gradient_.begin() + first, kBlock, gradient);
    Choice best;
    best.cost = all(0.0f);
    for (int i = 0; i < kBlock; ++i) {
        before[i] = old[i] = restored(first + i);
        Lanes step = all(0.0f);
        for (int j = 0; j < kBlock; ++j) step += inverse_moment[i * kBlock + j] * gradient[j];
        target[i] = old[i] + step;
        best.cost += step * gradient[i];
    }
    best.cost *= kWorthwhile;
    take_present(block, best);
    choose(block, root, pivots, target, search_.effort.refine_radius, false, best);
    take(block, best);
    for (int i = 0; i < kBlock; ++i) {
        const Lanes now = restored(first + i), moved = now - old[i];
        old[i] = now;
        if (!any(moved != all(0.0f))) continue;
        const float* row = moment_row(first + i) + first;
        for (int j = 0; j < kBlock; ++j) gradient[j] -= moved * row[j];
    }
    refine_levels(block, old, gradient);
    for (int i = 0; i < kBlock; ++i) change[i] = old[i] - before[i];
    return spread(block, change, gradient);
}

// product = H values in columns from begin to end, values being zero outside a super-block.
template <int kBlock>
void RowGroup<kBlock>::multiply(int super, const Lanes* values, int begin, int end,
                                Lanes* product) const {
    const int width = format_.super_block(), first = super * width;
    for (int q = begin; q < end; ++q) {
        const float* row = moment_row(q) + first;
        Lanes sums[4] = {};
        for (int j = 0; j < width; j += 4) {
            for (int k = 0; k < 4; ++k) sums[k] += row[j + k] * values[j + k];
        }
        product[q] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
}

// d and dm of a super-block by least squares, all integers as they are; kept where that helps.
template <int kBlock>
bool RowGroup<kBlock>::refit(int super) {
    const int width = format_.super_block(), first = super * width;
    Lanes* levels = work_.data() + first;
    for (int i = 0; i < width; ++i) {
        levels[i] = s_[size((first + i) / kBlock)] * levels_[size(first + i)];
    }
    multiply(super, levels, first, first + width, product_.data());
    Lanes aa = {}, ab = {}, bb = {}, ga = {}, gb = {};
    for (int i = 0; i < width; ++i) {
        aa += levels[i] * product_[size(first + i)];
        ga += levels[i] * gradient_[size(first + i)];
    }
    Lanes d_step = ga * inverse(aa), dm_step = {};
    Lanes minima[256];
    if (format_.has_minimum) {
        for (int i = 0; i < width; ++i) minima[i] = -m_[size((first + i) / kBlock)];
        multiply(super, minima, first, first + width, minima_product_.data());
        for (int i = 0; i < width; ++i) {
            ab += levels[i] * minima_product_[size(first + i)];
            bb += minima[i] * minima_product_[size(first + i)];
            gb += minima[i] * gradient_[size(first + i)];
        }
        const Lanes determinant = aa * bb - ab * ab;
        const Mask regular = determinant > 1e-6f * aa * bb;
        const Lanes inverted = pick(regular, inverse(determinant), all(0.0f));
        d_step = pick(regular, (ga * bb - gb * ab) * inverted, d_step);
        dm_step = pick(regular, (gb * aa - ga * ab) * inverted, all(0.0f));
    }
    Lanes &d = d_[size(super)], &dm = dm_[size(super)];
    Lanes new_d = to_half(d + d_step), new_dm = format_.has_minimum ? to_half(dm + dm_step) : dm;
    new_dm = pick(new_dm < all(0.0f), dm, new_dm);
    Lanes x = new_d - d, y = new_dm - dm;
    const Lanes gain = 2.0f * (x * ga + y * gb) - (x * x * aa + 2.0f * x * y * ab + y * y * bb);
    const Mask better = gain > all(0.0f);
    if (!any(better)) return false;
    x = pick(better, x, all(0.0f));
    y = pick(better, y, all(0.0f));
    d = pick(better, new_d, d);
    dm = pick(better, new_dm, dm);
    multiply(super, levels, 0, first, product_.data());
    multiply(super, levels, first + width, n_, product_.data());
    for (int i = 0; i < n_; ++i) gradient_[size(i)] -= x * product_[size(i)];
    if (!format_.has_minimum) return true;
    multiply(super, minima, 0, first, minima_product_.data());
    multiply(super, minima, first + width, n_, minima_product_.data());
    for (int i = 0; i < n_; ++i) gradient_[size(i)] -= y * minima_product_[size(i)];
    return true;
}

template <int kBlock>
void RowGroup<kBlock>::refine() {
    set_gradient();
    for (int pass = 0; pass < search_.effort.max_passes; ++pass) {
        bool changed = false;
        for (int block = 0; block < n_blocks_; ++block) changed |= refine_block(block);
        for (int super = 0; super < n_supers_; ++super) changed |= refit(super);
        if (!changed) break;
    }
}

template <int kBlock>
Lanes RowGroup<kBlock>::cost() {
    set_gradient();
    Lanes cost = all(0.0f);
    for (int i = 0; i < n_; ++i) cost += work_[size(i)] * gradient_[size(i)];
    return cost;
}

namespace {

template <int kBlock>
void quantize_rows(const ScalarFormat& format, const Search& search, const float* weights,
                   int64_t n_rows, const uint8_t* start, uint8_t* result, float* costs) {
    const int64_t n = search.basis->n;
    const size_t row_bytes = ggml_row_size(format.type, n);
    RowGroup<kBlock> group(format, search);
    for (int64_t first = 0; first < n_rows; first += kLanes) {
        const int count = n_rows - first < kLanes ? static_cast<int>(n_rows - first) : kLanes;
        const size_t offset = static_cast<size_t>(first) * row_bytes;
        group.read(weights + first * n, count, start + offset, row_bytes);
        group.feed_forward();
        group.refine();
        const Lanes cost = group.cost();
        for (int lane = 0; lane < count; ++lane) {
            group.write(lane, result + offset + static_cast<size_t>(lane) * row_bytes);
            costs[first + lane] = cost[lane];
        }
    }
}

}  // namespace

void quantize_scalar_rows(const ScalarFormat& format, const Search& search, const float* weights,
                          int64_t n_rows, const uint8_t* start, uint8_t* result, float* costs) {
    const auto quantize = format.block == 16 ? quantize_rows<16> : quantize_rows<32>;
    quantize(format, search, weights, n_rows, start, result, costs);
}

}  // namespace apex::feedback::APEX_FEEDBACK_ISA
