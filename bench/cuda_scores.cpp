// The GPU's scores and sums of squares against the CPU's: the same bits.
//
//   cuda_scores [--seed N] [--rows 8] [--n-vocab 248320]
//
// Logits (tests/cpp/softmax_cases.h) of a reference and two candidates, one of which lies in the
// GPU's memory, and of a candidate alone, in vocabularies of 1 to --n-vocab; then inputs of
// products (tests/cpp/input_cases.h) added twice to a total, and inputs that must be refused. One
// line a case; exit code 1 if a bit differs. At last products of routed rows, against sums in
// double (they are not exact), and against a batch of half the rows (they are the same bits). Small
// enough for compute-sanitizer.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "calibration/squared_columns.h"
#include "core/device_products.h"
#include "cuda/runtime.h"
#include "input_cases.h"
#include "scoring/device_softmax.h"
#include "scoring/softmax.h"
#include "scoring/softmax_score.h"
#include "softmax_cases.h"

namespace {

using apex::SoftmaxScore;
using apex::SoftmaxSums;
using namespace apex::tests;
using apex::cuda::DeviceBuffer;

constexpr int kDevice = 0;
constexpr int kCandidates = 2;

struct Options {
    unsigned seed = 1;
    int rows = 8;
    int64_t n_vocab = 248320;
};

template <typename T>
DeviceBuffer copied(const std::vector<T>& values) {
    DeviceBuffer buffer(values.size() * sizeof(T));
    APEX_CUDA_CALL(cudaMemcpy(buffer.as(), values.data(), buffer.size(), cudaMemcpyDefault));
    return buffer;
}

// --- scores --------------------------------------------------------------------------------------

class ScoreComparison {
  public:
    explicit ScoreComparison(const Options& options)
        : n_rows_(options.rows),
          random_(options.seed),
          scores_(apex::make_device_softmax(kDevice)) {}

    // The number of differing scores.
    int run(const ScoreCase& test, int64_t n_vocab) {
        make(test, n_vocab);
        const DeviceBuffer on_device = copied(candidates_[1]);
        apex::DeviceSoftmaxJob job;
        job.n_rows = n_rows_;
        job.n_vocab = n_vocab;
        job.targets = targets_.data();
        job.candidates = {candidates_[0].data(), on_device.as<float>()};
        std::vector<SoftmaxSums> alone(static_cast<size_t>(kCandidates * n_rows_));
        scores_->add_up(job, alone.data());
        job.reference = reference_.data();
        job.is_coded = test.is_coded;
        std::vector<SoftmaxSums> together(static_cast<size_t>((1 + kCandidates) * n_rows_));
        scores_->add_up(job, together.data());
        int n_differ = 0;
        for (int i = 0; i < n_rows_; ++i)
            n_differ += compare_row(test, n_vocab, i, together, alone);
        return n_differ;
    }

  private:
    void make(const ScoreCase& test, int64_t n_vocab) {
        const auto n = static_cast<size_t>(n_rows_ * n_vocab);
        reference_.resize(n);
        for (std::vector<float>& candidate : candidates_) candidate.resize(n);
        targets_.clear();
        std::vector<float> unused(static_cast<size_t>(n_vocab));
        for (int i = 0; i < n_rows_; ++i) {
            const int64_t at = i * n_vocab;
            make_rows(test, n_vocab, random_, unused.data(), candidates_[1].data() + at);
            make_rows(test, n_vocab, random_, reference_.data() + at, candidates_[0].data() + at);
            targets_.push_back(static_cast<int32_t>(random_() % static_cast<uint64_t>(n_vocab)));
        }
    }

    int compare_row(const ScoreCase& test, int64_t n_vocab, int i,
                    const std::vector<SoftmaxSums>& together,
                    const std::vector<SoftmaxSums>& alone) {
        const int64_t at = i * n_vocab;
        const int32_t target = targets_[static_cast<size_t>(i)];
        const float* rows[] = {candidates_[0].data() + at, candidates_[1].data() + at};
        SoftmaxScore reference, wanted[kCandidates];
        const auto score = test.is_coded ? apex::score_rows_coded : apex::score_rows;
        score(reference_.data() + at, rows, kCandidates, n_vocab, target, &reference, wanted,
              scratch_);
        const SoftmaxSums& first = together[static_cast<size_t>(i)];
        int n_differ =
            same(test.is_coded ? apex::coded_score_of(first) : apex::score_of(first), reference)
                ? 0
                : 1;
        for (int k = 0; k < kCandidates; ++k) {
            const SoftmaxSums& row = together[static_cast<size_t>((1 + k) * n_rows_ + i)];
            if (!same(apex::score_against(first, test.is_coded, row), wanted[k])) ++n_differ;
            const SoftmaxSums& single = alone[static_cast<size_t>(k * n_rows_ + i)];
            if (!same(apex::score_of(single), apex::score_row(rows[k], n_vocab, target))) {
                ++n_differ;
            }
        }
        return n_differ;
    }

    int n_rows_;
    std::mt19937_64 random_;
    std::unique_ptr<apex::DeviceSoftmax> scores_;
    std::vector<float> reference_, candidates_[kCandidates];
    std::vector<int32_t> targets_;
    apex::SoftmaxScratch scratch_;
};

// --- sums of squares -----------------------------------------------------------------------------

// An input whose pointers are the GPU's.
struct DeviceCopy {
    DeviceBuffer values, experts;
    apex::DeviceInput input;

    explicit DeviceCopy(const InputData& data)
        : values(copied(data.values)), experts(copied(data.experts)), input(data.input) {
        input.data = values.as();
        if (!data.experts.empty()) input.experts = experts.as();
    }
};

int64_t compare_squares(const InputData& data, apex::DeviceSquares& squares) {
    const int64_t n_per_row = data.input.ne[0], n_matrices = data.input.n_all_matrices();
    const DeviceCopy copy(data);
    if (!squares.compute(0, copy.input)) return 1;
    std::vector<double> sums(static_cast<size_t>(n_matrices * n_per_row), 0.5), wanted = sums;
    std::vector<int64_t> counts(static_cast<size_t>(n_matrices), 3);
    const size_t total =
        squares.add_total(sums.data(), n_matrices * n_per_row, counts.data(), n_matrices);
    squares.add(0, total);
    squares.add(0, total);
    squares.read_total(total, sums.data(), counts.data());
    squares.drop_total(total);
    int64_t n_differ = 0;
    std::vector<double> found(static_cast<size_t>(n_per_row));
    for (int64_t matrix = 0; matrix < n_matrices; ++matrix) {
        const std::vector<const float*> rows = data.rows_of(matrix);
        apex::sum_squared_columns(rows.data(), rows.size(), 0, n_per_row, found.data());
        const auto n_rows = static_cast<int64_t>(rows.size());
        if (counts[static_cast<size_t>(matrix)] != 3 + 2 * n_rows) ++n_differ;
        for (int64_t column = 0; column < n_per_row; ++column) {
            const auto at = static_cast<size_t>(matrix * n_per_row + column);
            const double once = n_rows == 0 ? 0.0 : found[static_cast<size_t>(column)];
            if (!same_bits(sums[at], (wanted[at] + once) + once)) ++n_differ;
        }
    }
    return n_differ;
}

// Each way an input can be wrong must be found.
int64_t count_accepted(InputData data, apex::DeviceSquares& squares) {
    int64_t n_accepted = 0;
    const InputData good = data;
    data.values[data.values.size() / 2] = kNan;
    n_accepted += squares.compute(1, DeviceCopy(data).input) ? 1 : 0;
    if (data.experts.empty()) return n_accepted;
    for (const int32_t number : {-1, static_cast<int32_t>(data.input.n_matrices[0])}) {
        data = good;
        data.experts[0] = number;
        n_accepted += squares.compute(1, DeviceCopy(data).input) ? 1 : 0;
    }
    return n_accepted;
}

// --- products of routed rows ---------------------------------------------------------------------

constexpr InputShape kProductShapes[] = {{"one row", {192, 1, 333, 1}, {5, 1}, 3, 0},
                                         {"own rows", {64, 4, 70, 1}, {9, 1}, 4, 8}};
constexpr int64_t kOutputs = 256;
constexpr double kProductsWithin = 1e-5;  // of the rows' norms: float sums of up to 192 products

class ProductComparison {
  public:
    ProductComparison(const InputShape& shape, ggml_type type, std::mt19937_64& random)
        : data_(shape, random), copy_(data_), type_(type) {
        std::normal_distribution<float> normal;
        const auto n = static_cast<size_t>(shape.ne[0] * kOutputs * shape.n_matrices[0]);
        std::vector<float> values(n);
        for (float& value : values) value = normal(random);
        stored_ = rounded(values.data(), static_cast<int64_t>(n), weights_);
        on_device_ = copied(stored_);
    }

    // The largest error, relative to the norms of row and column; infinite where a smaller batch
    // gives other bits.
    double run(apex::DeviceProducts& products) {
        const std::vector<float> all = compute(products, data_.input.n_tokens);
        const std::vector<float> half = compute(products, data_.input.n_tokens / 2);
        if (std::memcmp(all.data(), half.data(), half.size() * sizeof(float)) != 0)
            return kInfinite;
        double worst = 0;
        const int64_t n_used = data_.input.n_used, stride = data_.input.n_matrices[0] + 2;
        for (int64_t i = 0; i < data_.input.n_tokens * n_used; ++i) {
            const int64_t token = i / n_used, slot = i % n_used;
            const float* row = data_.row(slot % data_.input.ne[1], token, 0);
            const int32_t expert = data_.experts[static_cast<size_t>(token * stride + slot)];
            worst = std::max(worst, error(row, expert, all.data() + i * kOutputs));
        }
        return worst;
    }

  private:
    static constexpr double kInfinite = 1e300;

    // The values in the weights' type, and as floats again.
    std::vector<uint16_t> rounded(const float* from, int64_t n, std::vector<float>& back) const {
        std::vector<uint16_t> bits(static_cast<size_t>(n));
        back.resize(static_cast<size_t>(n));
        if (type_ == GGML_TYPE_F16) {
            ggml_fp32_to_fp16_row(from, reinterpret_cast<ggml_fp16_t*>(bits.data()), n);
            ggml_fp16_to_fp32_row(reinterpret_cast<ggml_fp16_t*>(bits.data()), back.data(), n);
        } else {
            ggml_fp32_to_bf16_row(from, reinterpret_cast<ggml_bf16_t*>(bits.data()), n);
            ggml_bf16_to_fp32_row(reinterpret_cast<ggml_bf16_t*>(bits.data()), back.data(), n);
        }
        return bits;
    }

    std::vector<float> compute(apex::DeviceProducts& products, int64_t n_tokens) {
        std::vector<float> result(static_cast<size_t>(kOutputs * data_.input.n_used * n_tokens),
                                  kNan);
        const DeviceBuffer to = copied(result);
        apex::DeviceRoutedProduct product;
        product.rows = copy_.input;
        product.rows.ne[2] = product.rows.n_tokens = n_tokens;
        product.weights = on_device_.as();
        product.type = type_;
        product.n_out = kOutputs;
        product.matrix_bytes = static_cast<size_t>(data_.input.ne[0] * kOutputs) * 2;
        product.result = to.as<float>();
        product.result_nb[0] = kOutputs * sizeof(float);
        product.result_nb[1] = product.result_nb[0] * static_cast<size_t>(data_.input.n_used);
        if (!products.takes(product) || !products.compute(product)) {
            apex::fail<apex::Error>("a product was refused");
        }
        APEX_CUDA_CALL(cudaMemcpy(result.data(), to.as(), to.size(), cudaMemcpyDefault));
        return result;
    }

    double error(const float* row, int32_t expert, const float* found) const {
        const int64_t n = data_.input.ne[0];
        std::vector<float> x;
        rounded(row, n, x);
        double worst = 0;
        for (int64_t output = 0; output < kOutputs; ++output) {
            const float* w = weights_.data() + (expert * kOutputs + output) * n;
            double sum = 0, ww = 0, xx = 0;
            for (int64_t i = 0; i < n; ++i) {
                sum += double(w[i]) * x[static_cast<size_t>(i)];
                ww += double(w[i]) * w[i];
                xx += double(x[static_cast<size_t>(i)]) * x[static_cast<size_t>(i)];
            }
            const double off = std::abs(found[output] - sum) / std::sqrt(ww * xx);
            if (!(off <= worst)) worst = off;
        }
        return worst;
    }

    InputData data_;
    DeviceCopy copy_;
    ggml_type type_;
    std::vector<float> weights_;
    std::vector<uint16_t> stored_;
    DeviceBuffer on_device_;
};

int count_bad_products(unsigned seed) {
    const auto products = apex::make_device_products(kDevice);
    if (!products) return 0;  // the GPU is too old, and llama.cpp computes
    std::mt19937_64 random(seed);
    int n_bad = 0;
    for (const InputShape& shape : kProductShapes) {
        for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_BF16}) {
            const double worst = ProductComparison(shape, type, random).run(*products);
            std::printf("products %-9s %s error %.2g\n", shape.name, ggml_type_name(type), worst);
            n_bad += worst <= kProductsWithin ? 0 : 1;
        }
    }
    return n_bad;
}

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string name = argv[i];
        const long value = std::atol(argv[i + 1]);
        if (name == "--seed") options.seed = static_cast<unsigned>(value);
        if (name == "--rows") options.rows = static_cast<int>(value);
        if (name == "--n-vocab") options.n_vocab = value;
    }
    return options;
}

int64_t compare_all(const Options& options) {
    int64_t n_all = 0;
    ScoreComparison comparison(options);
    for (const ScoreCase& test : kScoreCases) {
        int n_differ = 0;
        for (const int64_t n_vocab :
             {int64_t{1}, int64_t{16}, int64_t{37}, int64_t{1024}, options.n_vocab}) {
            n_differ += comparison.run(test, n_vocab);
        }
        std::printf("scores %-10s rows %d differ %d\n", test.name, 5 * options.rows, n_differ);
        n_all += n_differ;
    }
    std::mt19937_64 random(options.seed);
    const auto squares = apex::make_device_squares(kDevice, 2);
    for (const InputShape& shape : kInputShapes) {
        const InputData data(shape, random);
        const int64_t n_differ = compare_squares(data, *squares);
        const int64_t n_accepted = shape.padding == 0 ? count_accepted(data, *squares) : 0;
        std::printf("squares %-10s matrices %d differ %d, bad inputs accepted %d\n", shape.name,
                    static_cast<int>(data.input.n_all_matrices()), static_cast<int>(n_differ),
                    static_cast<int>(n_accepted));
        n_all += n_differ + n_accepted;
    }
    return n_all + count_bad_products(options.seed);
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return compare_all(parse(argc, argv)) == 0 ? 0 : 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "cuda_scores: %s\n", error.what());
        return 2;
    }
}
