// Error feedback without Python, for the sanitizers: tests/test_sanitizers.py builds and runs it.
//
// Every type, hard weights under hard moments, and experts through the Quantizer with 1 and 3
// threads: the bytes must agree, be valid for ggml, and cost what the search claims. Exit status 0
// if all went as it must; a message and 1 otherwise.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/error.h"
#include "core/quantize_rows.h"
#include "core/quantizer.h"
#include "moments/feedback.h"
#include "moments/feedback_tensor.h"
#include "moments/group_metric.h"
#include "moments/products.h"

namespace {

using namespace apex;

constexpr int64_t kColumns = 256;
constexpr int64_t kRows = 19;  // no multiple of any number of lanes

void require(bool condition, const std::string& what) {
    if (!condition) throw std::runtime_error("failed: " + what);
}

// Rows of inputs that a few directions dominate.
std::vector<float> some_inputs(int64_t n_rows, std::mt19937& random) {
    std::normal_distribution<float> gaussian;
    std::vector<float> directions(8 * kColumns), inputs;
    for (float& value : directions) value = gaussian(random);
    for (int64_t row = 0; row < n_rows; ++row) {
        float along[8];
        for (float& value : along) value = 2.0f * gaussian(random);
        for (int64_t i = 0; i < kColumns; ++i) {
            float value = gaussian(random);
            for (int k = 0; k < 8; ++k) value += along[k] * directions[k * kColumns + i];
            inputs.push_back(value);
        }
    }
    return inputs;
}

// X^T X, packed.
std::vector<double> products_of(const std::vector<float>& inputs) {
    std::vector<const float*> rows;
    for (size_t i = 0; i < inputs.size(); i += kColumns) rows.push_back(inputs.data() + i);
    std::vector<double> packed(packed_size(kColumns), 0.0);
    for (int64_t begin = 0; begin < kColumns; begin += kProductTile) {
        add_products(rows.data(), rows.size(), kColumns, begin, begin + kProductTile,
                     packed.data());
    }
    return packed;
}

std::vector<double> dense(const std::vector<double>& packed, double scale) {
    std::vector<double> result(kColumns * kColumns);
    for (int64_t i = 0; i < kColumns; ++i) {
        for (int64_t j = 0; j <= i; ++j) {
            const double value = scale * packed[packed_size(i) + j];
            result[i * kColumns + j] = result[j * kColumns + i] = value;
        }
    }
    return result;
}

// Gaussian, small, zero and with one outlier, row by row.
std::vector<float> hard_weights(std::mt19937& random) {
    std::normal_distribution<float> gaussian;
    std::vector<float> weights(kRows * kColumns);
    for (int64_t row = 0; row < kRows; ++row) {
        const float size = row % 4 == 1 ? 1e-6f : row % 4 == 2 ? 0.0f : 0.05f;
        for (int64_t i = 0; i < kColumns; ++i)
            weights[row * kColumns + i] = size * gaussian(random);
        if (row % 4 == 3) weights[row * kColumns + 7] = 30.0f;
    }
    return weights;
}

double cost_of(const FeedbackBasis& basis, const float* weights, const float* restored) {
    double cost = 0;
    for (int64_t i = 0; i < kColumns; ++i) {
        for (int64_t j = 0; j < kColumns; ++j) {
            cost += static_cast<double>(basis.moment[i * kColumns + j]) *
                    (static_cast<double>(weights[i]) - restored[i]) *
                    (static_cast<double>(weights[j]) - restored[j]);
        }
    }
    return cost;
}

void check_rows(ggml_type type, const FeedbackBasis& basis, const std::vector<float>& weights) {
    const size_t row_size = row_bytes(type, kColumns);
    std::vector<uint8_t> start(kRows * row_size), result(start.size());
    std::vector<float> costs(kRows), restored(weights.size());
    quantize_rows(type, weights.data(), start.data(), kRows, kColumns, basis.importance.data());
    FeedbackRows(type, basis, FeedbackEffort{})
        .quantize(weights.data(), kRows, start.data(), result.data(), costs.data());
    require(ggml_validate_row_data(type, result.data(), result.size()), "valid bytes");
    convert_to_float(type, result.data(), restored.data(), kRows * kColumns);
    const std::vector<float> nothing(kColumns, 0.0f);
    for (int64_t row = 0; row < kRows; ++row) {
        const float* wanted = weights.data() + row * kColumns;
        const double cost = cost_of(basis, wanted, restored.data() + row * kColumns);
        const double signal = cost_of(basis, wanted, nothing.data());
        require(std::abs(costs[row] - cost) <= 1e-4 * signal + 1e-12,
                concat(ggml_type_name(type), " row ", row, ": claims ", costs[row], ", is ", cost));
    }
}

// --- the nearest point of IQ1 -------------------------------------------------------------------

namespace lanes = feedback::APEX_FEEDBACK_ISA;

// Of all points, moved up or down.
float least_cost(const GridFormat& format, const float* metric, const float* target, float scale) {
    float least = 3e38f;
    for (int point = 0; point < format.n_points; ++point) {
        for (const float shift : {kGridShift, -kGridShift}) {
            float error[8];
            for (int i = 0; i < 8; ++i) {
                error[i] = target[i] - scale * (format.levels[point * 8 + i] + shift);
            }
            least = std::min(least, lanes::quadratic(metric, error));
        }
    }
    return least;
}

void check_nearest_shifted(std::mt19937& random) {
    const GridFormat& format = *grid_format(GGML_TYPE_IQ1_M);
    std::normal_distribution<float> gaussian;
    for (int turn = 0; turn < 60; ++turn) {
        lanes::GroupMetric metric;
        lanes::HalfMetrics halves;
        lanes::FoundGroup found;
        float root[64], target[8], error[8];
        for (float& value : root) value = gaussian(random);
        for (float& value : target) value = gaussian(random);
        for (int i = 0; i < 64; ++i) {
            metric.values[i] = i % 9 == 0 ? 0.3f : 0.0f;
            for (int k = 0; k < 8; ++k)
                metric.values[i] += root[i / 8 * 8 + k] * root[i % 8 * 8 + k];
        }
        metric.split(format, halves);
        const float scale = 0.2f * static_cast<float>(turn % 8 - 1);
        const float least = least_cost(format, metric.values, target, scale);
        const auto nearest = [&](float limit) {
            return lanes::nearest(format, metric, target, scale, lanes::kEitherWay, limit, found);
        };
        const float cost = nearest(3e38f);
        for (int i = 0; i < 8; ++i) error[i] = target[i] - scale * found.levels[i];
        require(std::abs(cost - least) <= 1e-4f * (1.0f + least), "no point is nearer");
        require(std::abs(lanes::quadratic(metric.values, error) - least) <= 1e-4f * (1.0f + least),
                "the point found is that near");
        require(nearest(0.99f * least) == 3e38f, "nothing below a limit that no point reaches");
    }
}

// --- a tensor of experts ------------------------------------------------------------------------

// A file without a name, gone when closed.
struct TemporaryFile {
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file{std::tmpfile(), std::fclose};

    TemporaryFile() { require(file != nullptr, "tmpfile"); }
    int descriptor() const { return fileno(file.get()); }
    std::string content() const {
        struct stat info{};
        require(::fstat(descriptor(), &info) == 0, "fstat");
        std::string bytes(static_cast<size_t>(info.st_size), '\0');
        require(::pread(descriptor(), bytes.data(), bytes.size(), 0) == info.st_size, "pread");
        return bytes;
    }
};

struct Moments {
    std::vector<float> total, part;
    std::vector<int64_t> counts, part_counts;

    // The last expert saw nothing, the second hardly anything.
    explicit Moments(std::mt19937& random) {
        for (const int64_t n : {400, 8, 0}) {
            const std::vector<double> half = products_of(some_inputs(n, random));
            const std::vector<double> other = products_of(some_inputs(n, random));
            for (size_t i = 0; i < half.size(); ++i) {
                part.push_back(static_cast<float>(half[i]));
                total.push_back(static_cast<float>(half[i] + other[i]));
            }
            counts.push_back(2 * n);
            part_counts.push_back(n);
        }
    }
};

std::string quantize(const QuantizeTask& pattern, const Moments& moments, int n_threads) {
    const TemporaryFile output;
    QuantizeTask task = pattern;
    task.output_fd = output.descriptor();
    FeedbackOptions options;
    options.sampled_rows = 4;
    FeedbackTensor converter(
        task,
        std::make_shared<InputChoices>(
            MomentSource(kColumns, task.source.rows.n_slices, moments.total.data(),
                         moments.part.data(), moments.counts.data(), moments.part_counts.data()),
            options));
    task.converter = &converter;
    QuantizeOptions job;
    job.n_threads = n_threads;
    Quantizer quantizer({task}, job);
    while (!quantizer.finished()) quantizer.wait(60000);
    const OutputErrors errors = converter.errors();
    require(errors.n_kept >= 1 && errors.n_kept < errors.n_slices, "one expert keeps ggml's bytes");
    require(std::isfinite(errors.error) && errors.held_out_error <= errors.held_out_ggml_error,
            "no more error than ggml's bytes where inputs could be held out");
    return output.content();
}

void check_experts(ggml_type type, const Moments& moments, std::mt19937& random) {
    const TemporaryFile model;
    std::vector<float> weights;
    for (size_t expert = 0; expert < moments.counts.size(); ++expert) {
        for (const float value : hard_weights(random)) weights.push_back(value);
    }
    const size_t size = weights.size() * sizeof(float);
    require(::pwrite(model.descriptor(), weights.data(), size, 0) == static_cast<ssize_t>(size),
            "pwrite");
    QuantizeTask task;
    task.source.name = "experts";
    task.source.type = GGML_TYPE_F32;
    task.source.rows = {kColumns, kRows, static_cast<int64_t>(moments.counts.size())};
    const auto file =
        std::make_shared<const MappedFile>(concat("/proc/self/fd/", model.descriptor()));
    task.source.ranges.push_back({file, 0, task.source.rows.n_rows(), nullptr});
    task.target_type = type;
    const std::vector<float> importance(moments.counts.size() * kColumns, 1.0f);
    task.imatrix = importance.data();
    require(quantize(task, moments, 1) == quantize(task, moments, 3),
            concat(ggml_type_name(type), ": 1 and 3 threads write the same"));
}

void run() {
    std::mt19937 random(5);
    const std::vector<float> weights = hard_weights(random);
    const Moments moments(random);
    check_nearest_shifted(random);
    const double tiny = 1e-12, huge = 1e12;
    for (int number = 0; number < GGML_TYPE_COUNT; ++number) {
        const auto type = static_cast<ggml_type>(number);
        if (!is_known_type(static_cast<uint32_t>(number)) || !has_feedback(type)) continue;
        for (const double scale : {tiny, 1.0, huge}) {
            // Fewer inputs than columns: only damping makes it definite.
            const auto moment = dense(products_of(some_inputs(100, random)), scale / 100);
            check_rows(type, make_basis(moment.data(), kColumns, 0.01), weights);
        }
        check_experts(type, moments, random);
        std::printf("%s: as it must\n", ggml_type_name(type));
    }
}

}  // namespace

int main() {
    try {
        run();
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "moments_test: %s\n", error.what());
        return 1;
    }
}
