// No std templates of plain types here: see scalar_group.h.
#include <cstdlib>

#include "moments/feedback.h"
#include "moments/grid_group.h"

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

// Metric and pivots of one group: of what error costs in it once later columns make good what they
// can. With X the inverse of the group's triangle U of the root, the metric is X X^T.
struct GroupMetric {
    float metric[kGroup * kGroup];
    float errors[kGroup * kGroup];  // X: an error times X is its share for each of U's rows

    // element(i, j) of U, j >= i
    template <class Element>
    void set(const Element& element) {
        double x[kGroup * kGroup] = {};
        for (int i = kGroup - 1; i >= 0; --i) {
            x[i * kGroup + i] = 1.0;
            for (int k = i + 1; k < kGroup; ++k) {
                for (int j = k; j < kGroup; ++j)
                    x[i * kGroup + j] -= element(i, k) * x[k * kGroup + j];
            }
            for (int j = i; j < kGroup; ++j) x[i * kGroup + j] /= element(i, i);
        }
        for (int i = 0; i < kGroup; ++i) {
            for (int j = 0; j < kGroup; ++j) {
                double sum = 0;
                for (int k = 0; k < kGroup; ++k) sum += x[i * kGroup + k] * x[j * kGroup + k];
                metric[i * kGroup + j] = static_cast<float>(sum);
                errors[i * kGroup + j] = static_cast<float>(x[i * kGroup + j]);
            }
        }
    }

    void shares(const float* error, float* result) const {
        for (int j = 0; j < kGroup; ++j) {
            result[j] = 0;
            for (int i = 0; i <= j; ++i) result[j] += error[i] * errors[i * kGroup + j];
        }
    }
};

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
          upper_(int64_t{n_blocks_} * format.block * format.block) {
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
    float block_cost(const GroupMetric* metrics, const float* upper, const float* target,
                     float scale, float limit, FoundGroup* found) const;
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
    Buffer<GroupMetric> forward_, inside_;  // under the whole root, and under the block's own
    Buffer<float> upper_;                   // the whole root's triangles along the blocks
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
        forward_[block * per_block_ + g].set(element_of(upper));
        inside_[block * per_block_ + g].set(element_of(own));
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
float GridRow::block_cost(const GroupMetric* metrics, const float* upper, const float* target,
                          float scale, float limit, FoundGroup* found) const {
    float wish[kMaxBlock];
    std::memcpy(wish, target, static_cast<size_t>(format_.block) * sizeof(float));
    float cost = 0;
    for (int g = 0; g < per_block_; ++g) {
        const int first = g * kGroup;
        cost += nearest_group(format_, metrics[g].metric, wish + first, scale, found[g]);
        if (!(cost < limit)) return 3e38f;
        float error[kGroup], shares[kGroup];
        for (int i = 0; i < kGroup; ++i) error[i] = wish[first + i] - scale * found[g].levels[i];
        metrics[g].shares(error, shares);
        for (int j = 0; j < kGroup; ++j) {
            subtract(upper + (first + j) * format_.block, shares[j], first + kGroup, format_.block,
                     wish);
        }
    }
    return cost;
}

void GridRow::feed_forward() {
    for (int i = 0; i < n_; ++i) work_[i] = weights_[i];
    const float* root = search_.basis->root.data();
    const int size = format_.block;
    for (int block = 0; block < n_blocks_; ++block) {
        const int first = block * size, start = s_[block];
        const GroupMetric* metrics = forward_.data() + block * per_block_;
        const float* upper = upper_.data() + int64_t{block} * size * size;
        float best = 3e38f;
        FoundGroup tried[kMaxGroups];
        for (int step = 0; step <= 2 * search_.effort.scale_radius; ++step) {
            const int s = start + (step + 1) / 2 * (step % 2 ? 1 : -1);
            if (s < 0 || s > 15) continue;
            const float cost =
                block_cost(metrics, upper, work_.data() + first, scale_for(block, s), best, tried);
            if (!(cost < best)) continue;
            best = cost;
            s_[block] = s;
            for (int g = 0; g < per_block_; ++g) found_[block * per_block_ + g] = tried[g];
        }
        for (int g = 0; g < per_block_; ++g) {
            const int at = first + g * kGroup;
            float error[kGroup], shares[kGroup];
            for (int i = 0; i < kGroup; ++i) error[i] = work_[at + i] - restored(at + i);
            metrics[g].shares(error, shares);
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
    int chosen = -1;
    FoundGroup tried[kMaxGroups], kept[kMaxGroups];
    const int radius = search_.effort.refine_radius;
    for (int s = s_[block] - radius; s <= s_[block] + radius; ++s) {
        if (s < 0 || s > 15) continue;
        const float cost = block_cost(inside_.data() + block * per_block_, upper, target,
                                      scale_for(block, s), best, tried);
        if (!(cost < best)) continue;
        best = cost;
        chosen = s;
        for (int g = 0; g < per_block_; ++g) kept[g] = tried[g];
    }
    if (chosen < 0) return false;
    s_[block] = chosen;
    for (int g = 0; g < per_block_; ++g) found_[block * per_block_ + g] = kept[g];
    move(first, size, before);
    return true;
}

bool GridRow::refine_group(int group) {
    const int first = group * kGroup;
    const float* inverse = search_.groups->inverse.data() + int64_t{group} * kGroup * kGroup;
    float metric[kGroup * kGroup], before[kGroup], target[kGroup], present = 0;
    for (int i = 0; i < kGroup; ++i) {
        std::memcpy(metric + i * kGroup, moment_row(first + i) + first, kGroup * sizeof(float));
        before[i] = restored(first + i);
        float step = 0;
        for (int j = 0; j < kGroup; ++j) step += inverse[i * kGroup + j] * gradient_[first + j];
        target[i] = before[i] + step;
        present += step * gradient_[first + i];
    }
    FoundGroup found;
    const float cost = nearest_group(format_, metric, target, scale(first / format_.block), found);
    if (!(cost < kWorthwhile * present)) return false;
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
