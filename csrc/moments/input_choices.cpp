#include "moments/input_choices.h"

#include <algorithm>

#include "core/checks.h"
#include "core/error.h"
#include "moments/fitted_rows.h"
#include "moments/quadratic_form.h"

namespace apex {
namespace {

constexpr MomentPart kHalves[] = {MomentPart::part, MomentPart::rest};

double sum_of(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value;
    return sum;
}

std::vector<float> as_floats(const std::vector<double>& values) {
    return {values.begin(), values.end()};
}

}  // namespace

struct InputChoices::Slice {
    std::mutex mutex;
    std::vector<SliceChoice> choices;  // of each tensor; empty until they are made
};

// Some rows of one tensor, and bytes of them.
struct InputChoices::Sample {
    const QuantizeTask& task;
    std::vector<float> weights;
    int64_t n_rows;
    std::vector<uint8_t> bytes;

    double error(const std::vector<float>& judge) const {
        return output_errors(judge.data(), task.source.rows.n_per_row, weights.data(),
                             task.target_type, bytes.data(), n_rows, nullptr);
    }
};

// Of one tensor's sample on held-out tokens: of ggml's bytes, and under each trust.
class InputChoices::Errors {
  public:
    explicit Errors(size_t n_trusts) : own_(n_trusts, 0.0) {}

    void add_plain(double weight, double error) { ggml_ += weight * error; }
    void add(size_t trust, double weight, double error) { own_[trust] += weight * error; }
    SliceChoice choice(const std::vector<Trust>& trusts) const {
        const auto least = std::min_element(own_.begin(), own_.end());
        return {!(*least < ggml_), trusts[static_cast<size_t>(least - own_.begin())],
                std::min(*least, ggml_), ggml_};
    }

  private:
    double ggml_ = 0;
    std::vector<double> own_;
};

InputChoices::InputChoices(MomentSource source, FeedbackOptions options)
    : source_(std::move(source)), options_(std::move(options)) {
    if (options_.trusts.empty()) fail<InvalidArgument>("second moments without a trust");
}

InputChoices::~InputChoices() = default;

size_t InputChoices::add(const QuantizeTask& task) {
    const TensorRows& rows = task.source.rows;
    if (!has_feedback(task.target_type)) {
        fail<InvalidArgument>(task.source.name, ": no error feedback into ",
                              ggml_type_name(task.target_type));
    }
    if (source_.n() != rows.n_per_row ||
        (source_.n_slices() != 1 && source_.n_slices() != rows.n_slices)) {
        fail<InvalidArgument>(task.source.name, ": a second moment of ", source_.n_slices(), " x ",
                              source_.n(), " columns, expected ", rows.n_slices, " x ",
                              rows.n_per_row, "; collect it from this very model");
    }
    if (!tasks_.empty() && (tasks_.front().target_type != task.target_type ||
                            tasks_.front().source.rows.n_slices != rows.n_slices)) {
        fail<InvalidArgument>(task.source.name, ": another type or number of matrices than ",
                              tasks_.front().source.name, " beside it");
    }
    while (static_cast<int64_t>(slices_.size()) < rows.n_slices) {
        slices_.push_back(std::make_unique<Slice>());
    }
    tasks_.push_back(task);
    return tasks_.size() - 1;
}

SliceChoice InputChoices::of(size_t tensor, int64_t slice, FeedbackPlace* place) {
    Slice& found = *slices_[static_cast<size_t>(slice)];
    const std::lock_guard<std::mutex> lock(found.mutex);
    if (found.choices.empty()) found.choices = choose(slice, place);
    return found.choices[tensor];
}

// Are there inputs to hold out?
bool InputChoices::can_judge(int64_t slice) const {
    for (const MomentPart half : kHalves) {
        if (source_.count(moment_of(slice), half) < options_.min_held_out) return false;
    }
    return true;
}

FeedbackEffort InputChoices::trial_effort() const {
    FeedbackEffort effort = options_.effort;
    effort.max_passes = std::min(effort.max_passes, 2);
    effort.max_grid_passes = std::min(effort.max_grid_passes, 1);
    effort.max_rounds = 1;
    effort.max_grid_rounds = 1;
    return effort;
}

std::vector<SliceChoice> InputChoices::choose(int64_t slice, FeedbackPlace* place) const {
    SliceChoice careful;
    careful.trust = options_.trusts.back();
    careful.keeps_ggml = source_.count(moment_of(slice), MomentPart::all) == 0;
    if (careful.keeps_ggml || !can_judge(slice)) return {tasks_.size(), careful};
    std::vector<Errors> errors(tasks_.size(), Errors(options_.trusts.size()));
    if (place == nullptr) {
        try_here(slice, errors);
    } else {
        try_on(slice, *place, errors);
    }
    std::vector<SliceChoice> choices;
    for (const Errors& found : errors) choices.push_back(found.choice(options_.trusts));
    return choices;
}

std::vector<InputChoices::Sample> InputChoices::samples(int64_t slice) const {
    std::vector<Sample> result;
    for (const QuantizeTask& task : tasks_) {
        std::vector<float> weights = sample_rows(task.source, slice, options_.sampled_rows);
        const auto n_rows = static_cast<int64_t>(weights.size()) / source_.n();
        const size_t bytes = row_bytes(task.target_type, source_.n());
        result.push_back({task, std::move(weights), n_rows,
                          std::vector<uint8_t>(static_cast<size_t>(n_rows) * bytes)});
    }
    return result;
}

void InputChoices::try_here(int64_t slice, std::vector<Errors>& errors) const {
    const int64_t of = moment_of(slice);
    std::vector<Sample> rows = samples(slice);
    for (int half = 0; half < 2; ++half) {
        const std::vector<float> judge = as_floats(source_.mean(of, kHalves[1 - half]));
        const auto weight = static_cast<double>(source_.count(of, kHalves[1 - half]));
        for (size_t i = 0; i < rows.size(); ++i) {
            quantize_plainly(rows[i].task, slice, rows[i].weights.data(), rows[i].n_rows,
                             rows[i].bytes.data());
            errors[i].add_plain(weight, rows[i].error(judge));
        }
        for (size_t trust = 0; trust < options_.trusts.size(); ++trust) {
            const std::vector<double> moment =
                source_.trusted(of, kHalves[half], options_.trusts[trust]);
            const FeedbackBasis basis = make_basis(moment.data(), source_.n(), options_.damping);
            for (size_t i = 0; i < rows.size(); ++i) {
                fit_rows(rows[i].task.target_type, basis, trial_effort(), rows[i].weights.data(),
                         rows[i].n_rows, rows[i].bytes.data());
                errors[i].add(trust, weight, rows[i].error(judge));
            }
        }
    }
}

// As many bases at once as a place holds; of half after half, trust after trust.
void InputChoices::try_on(int64_t slice, FeedbackPlace& place, std::vector<Errors>& errors) const {
    const std::vector<Sample> rows = samples(slice);
    const size_t n_trusts = options_.trusts.size();
    const auto judged_by = [](size_t basis_half) { return kHalves[1 - basis_half]; };
    for (size_t begin = 0; begin < 2 * n_trusts; begin += kMaxFeedbackBases) {
        const size_t end = std::min<size_t>(2 * n_trusts, begin + kMaxFeedbackBases);
        std::vector<BasisChoice> bases;
        for (size_t i = begin; i < end; ++i) {
            bases.push_back({kHalves[i / n_trusts], options_.trusts[i % n_trusts]});
        }
        for (size_t i = 0; i < rows.size(); ++i) {
            const auto weight_of = [&](size_t half) {
                return static_cast<double>(source_.count(moment_of(slice), judged_by(half)));
            };
            place.take_rows(rows[i].task.target_type, rows[i].weights.data(), rows[i].n_rows);
            if (begin == 0) {
                place.quantize_plainly(rows[i].task.slice_imatrix(slice));
                for (size_t half = 0; half < 2; ++half) {
                    place.judge_by(judged_by(half));
                    errors[i].add_plain(weight_of(half), sum_of(place.errors(-1)));
                }
            }
            place.make_bases(bases, options_.damping);
            place.quantize(trial_effort());
            for (size_t k = begin; k < end; ++k) {
                const size_t half = k / n_trusts;
                place.judge_by(judged_by(half));
                errors[i].add(k % n_trusts, weight_of(half),
                              sum_of(place.errors(static_cast<int>(k - begin))));
            }
        }
    }
}

}  // namespace apex
