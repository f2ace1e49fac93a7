// No std templates of plain types here: see scalar_group.h.
#include <cstdlib>

#include "moments/feedback.h"
#include "moments/grid_group.h"
#include "moments/group_metric.h"

namespace apex::feedback::APEX_FEEDBACK_ISA {
namespace {

constexpr int kSuper = 256;
constexpr int kMaxBlock = 32;
constexpr int kMaxGroups = kMaxBlock / kGroup;
constexpr float kWorthwhile = 0.9999f;

// An array without std::vector.
template <class T>
class Buffer {
  public:
    explicit Buffer(int64_t n) : data_(new T[static_cast<size_t>(n)]()) {}
    ~Buffer() { delete[] data_; }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T& operator[](int64_t i) { return data_[i]; }
    const T& operator[](int64_t i) const { return data_[i]; }
    T* data() { return data_; }
    const T* data() const { return data_; }

  private:
    T* data_;
};

float to_half(float value) {
    return ggml_fp16_to_fp32(ggml_fp32_to_fp16(value));
}

// values[i] -= factor * row[i] for the n values from first on.
void subtract(const float* row, float factor, int64_t first, int64_t n, float* values) {
    for (int64_t i = first; i < n; ++i) values[i] -= factor * row[i];
}

class GridRow {
  public:
    GridRow(const GridFormat& format, const Search& search)
        : format_(format),
          search_(search),
          n_(static_cast<int>(search.basis->n)),
          n_blocks_(n_ / format.block),
          n_groups_(n_ / kGroup),
          n_supers_(n_ / kSuper),
          per_block_(format.block / kGroup),
          work_(n_),
          gradient_(n_),
          product_(n_),
          d_(n_supers_),
          s_(n_blocks_),
          found_(n_groups_),
          forward_(n_groups_),
          inside_(n_groups_),
          own_(n_groups_),
          upper_(int64_t{n_blocks_} * format.block * format.block),
          halves_(format.shifted() ? 3 * n_groups_ : 0) {
        for (int block = 0; block < n_blocks_; ++block) prepare(block);
    }

    void read(const float* weights, const uint8_t* start);
    void feed_forward();
    void refine();
    float cost();
    void write(uint8_t* result) const;

  private:
    void prepare(int block);
    float scale(int block) const { return scale_for(block, s_[block]); }
    float scale_for(int block, int s) const {
        return d_[block * format_.block / kSuper] * format_.multiplier(s);
    }
    float restored(int i) const {
        return scale(i / format_.block) * found_[i / kGroup].levels[i % kGroup];
    }
    const float* moment_row(int i) const {
        return search_.basis->moment.data() + static_cast<int64_t>(i) * n_;
    }
    float block_cost(const GroupStep* steps, const float* upper, const float* target, float scale,
                     int ways, float limit, FoundGroup* found) const;
    bool solve(int block, int s, const GroupStep* steps, const float* upper, const float* target,
               float& best);
    bool refine_block(int block);
    bool refine_group(int group);
    void move(int first, int n, const float* before);
    bool refit(int super);
    void set_gradient();

    const GridFormat& format_;
    const Search& search_;
    int n_, n_blocks_, n_groups_, n_supers_, per_block_;
    const float* weights_ = nullptr;
    Buffer<float> work_, gradient_, product_, d_;
    Buffer<int> s_;
    Buffer<FoundGroup> found_;
    Buffer<GroupStep> forward_, inside_;  // under the whole root, and under the block's own
    Buffer<GroupMetric> own_;             // of the moment alone
    Buffer<float> upper_;                 // the whole root's triangles along the blocks
    Buffer<HalfMetrics> halves_;          // of forward_, inside_ and own_
};

void GridRow::prepare(int block) {
    const int size = format_.block, first = block * size;
    const float* root = search_.basis->root.data();
    float* upper = upper_.data() + int64_t{block} * size * size;
    for (int i = 0; i < size; ++i) {
        for (int j = i; j < size; ++j) {
            upper[i * size + j] = root[int64_t{first + j} * n_ + first + i];
        }
    }
    const float* own = search_.blocks->root.data() + int64_t{block} * size * size;
    for (int g = 0; g < per_block_; ++g) {
        const auto element_of = [&](const float* triangle) {
            return [triangle, size, g](int i, int j) {
                return static_cast<double>(triangle[(g * kGroup + i) * size + g * kGroup + j]);
            };
        };
        const int group = block * per_block_ + g, at = group * kGroup;
        forward_[group].set(element_of(upper));
        inside_[group].set(element_of(own));
        for (int i = 0; i < kGroup; ++i) {
            std::memcpy(own_[group].values + i * kGroup, moment_row(at + i) + at,
                        kGroup * sizeof(float));
        }
        forward_[group].metric.split(format_, halves_[3 * group]);
        inside_[group].metric.split(format_, halves_[3 * group + 1]);
        own_[group].split(format_, halves_[3 * group + 2]);
    }
}

void GridRow::read(const float* weights, const uint8_t* start) {
    weights_ = weights;
    const int per_super = kSuper / format_.block;
    for (int super = 0; super < n_supers_; ++super) {
        GridBlock block;
        read_grid_scales(format_, start + static_cast<size_t>(super) * ggml_type_size(format_.type),
                         block);
        d_[super] = block.d;
        for (int i = 0; i < per_super; ++i) s_[super * per_super + i] = block.s[i];
    }
}

// Group after group, errors made good in the block's later ones; gives up above limit.
float GridRow::block_cost(const GroupStep* steps, const float* upper, const float* target,
                          float scale, int ways, float limit, FoundGroup* found) const {
    float wish[kMaxBlock];
    std::memcpy(wish, target, static_cast<size_t>(format_.block) * sizeof(float));
    float cost = 0;
    for (int g = 0; g < per_block_; ++g) {
        const int first = g * kGroup;
        cost +=
            nearest(format_, steps[g].metric, wish + first, scale, ways, limit - cost, found[g]);
        if (!(cost < limit)) return 3e38f;
        float error[kGroup], shares[kGroup];
        for (int i = 0; i < kGroup; ++i) error[i] = wish[first + i] - scale * found[g].levels[i];
        steps[g].shares(error, shares);
        for (int j = 0; j < kGroup; ++j) {
            subtract(upper + (first + j) * format_.block, shares[j], first + kGroup, format_.block,
                     wish);
        }
    }
    return cost;
}

// A block with scale s, taken where it costs less than best, which becomes what it costs.
bool GridRow::solve(int block, int s, const GroupStep* steps, const float* upper,
                    const float* target, float& best) {
    if (s < 0 || s > format_.max_scale) return false;
    const bool one_way = format_.signs == GridSigns::block_shift;
    bool better = false;
    FoundGroup tried[kMaxGroups];
    for (int ways = one_way ? kUp : kEitherWay; ways <= (one_way ? kDown : kEitherWay); ++ways) {
        const float cost = block_cost(steps, upper, target, scale_for(block, s), ways, best, tried);
        if (!(cost < best)) continue;
        best = cost;
        better = true;
        s_[block] = s;
        for (int g = 0; g < per_block_; ++g) found_[block * per_block_ + g] = tried[g];
    }
    return better;
}

void GridRow::feed_forward() {
    for (int i = 0; i < n_; ++i) work_[i] = weights_[i];
    const float* root = search_.basis->root.data();
    const int size = format_.block;
    for (int block = 0; block < n_blocks_; ++block) {
        const int first = block * size, start = s_[block];
        const GroupStep* steps = forward_.data() + block * per_block_;
        const float* upper = upper_.data() + int64_t{block} * size * size;
        float best = 3e38f;
        for (int step = 0; step <= 2 * search_.effort.scale_radius; ++step) {
            const int s = start + (step + 1) / 2 * (step % 2 ? 1 : -1);
            solve(block, s, steps, upper, work_.data() + first, best);
        }
        for (int g = 0; g < per_block_; ++g) {
            const int at = first + g * kGroup;
            float error[kGroup], shares[kGroup];
            for (int i = 0; i < kGroup; ++i) error[i] = work_[at + i] - restored(at + i);
            steps[g].shares(error, shares);
            for (int q = at + kGroup; q < n_; ++q) {
                const float* row = root + int64_t{q} * n_ + at;
                float value = work_[q];
                for (int j = 0; j < kGroup; ++j) value -= shares[j] * row[j];
                work_[q] = value;
            }
        }
    }
}

void GridRow::set_gradient() {
    for (int i = 0; i < n_; ++i) {
        work_[i] = weights_[i] - restored(i);
        gradient_[i] = 0;
    }
    for (int i = 0; i < n_; ++i) subtract(moment_row(i), -work_[i], 0, n_, gradient_.data());
}

// The gradient learns what became of n columns.
void GridRow::move(int first, int n, const float* before) {
    for (int i = 0; i < n; ++i) {
        const float change = restored(first + i) - before[i];
        if (change != 0) subtract(moment_row(first + i), change, 0, n_, gradient_.data());
    }
}

bool GridRow::refine_block(int block) {
    const int size = format_.block, first = block * size;
    const float* inverse = search_.blocks->inverse.data() + int64_t{block} * size * size;
    const float* upper = search_.blocks->root.data() + int64_t{block} * size * size;
    float before[kMaxBlock], target[kMaxBlock], best = 0;
    for (int i = 0; i < size; ++i) {
        before[i] = restored(first + i);
        float step = 0;
        for (int j = 0; j < size; ++j) step += inverse[i * size + j] * gradient_[first + j];
        target[i] = before[i] + step;
        best += step * gradient_[first + i];
    }
    best *= kWorthwhile;
    const GroupStep* steps = inside_.data() + block * per_block_;
    const int present = s_[block], radius = search_.effort.refine_radius;
    bool better = false;
    for (int s = present - radius; s <= present + radius; ++s) {
        better |= solve(block, s, steps, upper, target, best);
    }
    if (!better) return false;
    move(first, size, before);
    return true;
}

bool GridRow::refine_group(int group) {
    const int first = group * kGroup;
    const float* inverse = search_.groups->inverse.data() + int64_t{group} * kGroup * kGroup;
    float before[kGroup], target[kGroup], present = 0;
    for (int i = 0; i < kGroup; ++i) {
        before[i] = restored(first + i);
        float step = 0;
        for (int j = 0; j < kGroup; ++j) step += inverse[i * kGroup + j] * gradient_[first + j];
        target[i] = before[i] + step;
        present += step * gradient_[first + i];
    }
    const float limit = kWorthwhile * present;
    const bool stays = format_.signs == GridSigns::block_shift;
    const int ways = !stays ? kEitherWay : found_[group].group.signs != 0 ? kDown : kUp;
    FoundGroup found;
    const float cost =
        nearest(format_, own_[group], target, scale(first / format_.block), ways, limit, found);
    if (!(cost < limit)) return false;
    found_[group] = found;
    move(first, kGroup, before);
    return true;
}

// d of a super-block by least squares, kept where that helps.
bool GridRow::refit(int super) {
    const int first = super * kSuper;
    float square = 0, slope = 0;
    for (int i = 0; i < n_; ++i) product_[i] = 0;
    for (int i = first; i < first + kSuper; ++i) {
        work_[i] =
            format_.multiplier(s_[i / format_.block]) * found_[i / kGroup].levels[i % kGroup];
        subtract(moment_row(i), -work_[i], 0, n_, product_.data());
    }
    for (int i = first; i < first + kSuper; ++i) {
        square += work_[i] * product_[i];
        slope += work_[i] * gradient_[i];
    }
    if (!(square > 0)) return false;
    const float better = to_half(d_[super] + slope / square), x = better - d_[super];
    if (!(2.0f * x * slope - x * x * square > 0)) return false;
    d_[super] = better;
    subtract(product_.data(), x, 0, n_, gradient_.data());
    return true;
}

void GridRow::refine() {
    set_gradient();
    for (int pass = 0; pass < search_.effort.max_grid_passes; ++pass) {
        bool changed = false;
        for (int block = 0; block < n_blocks_; ++block) {
            changed |= refine_block(block);
            for (int g = 0; g < per_block_; ++g) changed |= refine_group(block * per_block_ + g);
        }
        for (int super = 0; super < n_supers_; ++super) changed |= refit(super);
        if (!changed) break;
    }
}

float GridRow::cost() {
    set_gradient();
    float sum = 0;
    for (int i = 0; i < n_; ++i) sum += work_[i] * gradient_[i];
    return sum;
}

void GridRow::write(uint8_t* result) const {
    const int per_super = kSuper / format_.block;
    for (int super = 0; super < n_supers_; ++super) {
        GridBlock block;
        block.d = d_[super];
        for (int i = 0; i < per_super; ++i) block.s[i] = s_[super * per_super + i];
        for (int i = 0; i < kSuper / kGroup; ++i) {
            block.groups[i] = found_[super * (kSuper / kGroup) + i].group;
        }
        write_grid_block(format_, block,
                         result + static_cast<size_t>(super) * ggml_type_size(format_.type));
    }
}

}  // namespace

void quantize_grid_rows(const GridFormat& format, const Search& search, const float* weights,
                        int64_t n_rows, const uint8_t* start, uint8_t* result, float* costs) {
    const int64_t n = search.basis->n;
    const size_t row_bytes = ggml_row_size(format.type, n);
    GridRow row(format, search);
    for (int64_t i = 0; i < n_rows; ++i) {
        const size_t offset = static_cast<size_t>(i) * row_bytes;
        row.read(weights + i * n, start + offset);
        row.feed_forward();
        row.refine();
        costs[i] = row.cost();
        row.write(result + offset);
    }
}

}  // namespace apex::feedback::APEX_FEEDBACK_ISA
