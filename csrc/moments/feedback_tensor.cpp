#include "moments/feedback_tensor.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/error.h"
#include "core/quantize_rows.h"
#include "moments/quadratic_form.h"

namespace apex {

struct FeedbackTensor::Slice {
    std::mutex mutex;
    bool ready = false;
    bool keeps_ggml = false;
    Trust trust;
    int64_t rows_left = 0;
    double held_out_error = 0, held_out_ggml_error = 0;
    FeedbackBasis basis;
    std::vector<float> moment;  // mean over all tokens, as it was collected
};

FeedbackTensor::FeedbackTensor(const QuantizeTask& task, MomentSource source,
                               FeedbackOptions options, std::shared_ptr<FeedbackDevices> devices)
    : task_(task),
      source_(std::move(source)),
      options_(std::move(options)),
      devices_(std::move(devices)),
      row_bytes_(row_bytes(task.target_type, task.source.rows.n_per_row)) {
    const TensorRows& rows = task.source.rows;
    if (!has_feedback(task.target_type) || options_.trusts.empty()) {
        fail<InvalidArgument>(task.source.name, ": no error feedback into ",
                              ggml_type_name(task.target_type));
    }
    if (source_.n() != rows.n_per_row ||
        (source_.n_slices() != 1 && source_.n_slices() != rows.n_slices)) {
        fail<InvalidArgument>(task.source.name, ": a second moment of ", source_.n_slices(), " x ",
                              source_.n(), " columns, expected ", rows.n_slices, " x ",
                              rows.n_per_row, "; collect it from this very model");
    }
    costs_.resize(static_cast<size_t>(rows.n_rows()));
    for (int64_t i = 0; i < rows.n_slices; ++i) {
        slices_.push_back(std::make_unique<Slice>());
        slices_.back()->rows_left = rows.rows_per_slice;
    }
}

FeedbackTensor::~FeedbackTensor() = default;

std::vector<float> FeedbackTensor::sample(int64_t slice, int64_t& n_rows) const {
    const TensorRows& rows = task_.source.rows;
    n_rows = std::min(options_.sampled_rows, rows.rows_per_slice);
    std::vector<float> weights(static_cast<size_t>(n_rows * rows.n_per_row));
    std::vector<uint8_t> stored;
    for (int64_t i = 0; i < n_rows; ++i) {
        RowUnit unit;
        unit.slice = slice;
        unit.first_row = i * rows.rows_per_slice / n_rows;
        unit.n_rows = 1;
        stored.resize(unit_bytes(task_.source, unit));
        read_unit(task_.source, unit, stored.data());
        convert_to_float(task_.source.type, stored.data(), weights.data() + i * rows.n_per_row,
                         rows.n_per_row);
        require_finite(task_.source, unit, weights.data() + i * rows.n_per_row);
    }
    return weights;
}

void FeedbackTensor::quantize_plainly(int64_t slice, const float* weights, int64_t n_rows,
                                      uint8_t* result) const {
    quantize_rows(task_.target_type, weights, result, n_rows, source_.n(),
                  task_.slice_imatrix(slice));
}

// Rows whose search ends above the start, or in bytes that are not valid, keep the start.
void FeedbackTensor::quantize(const FeedbackBasis& basis, const float* weights, int64_t n_rows,
                              const FeedbackEffort& effort, uint8_t* result) const {
    const FeedbackRows rows(task_.target_type, basis, effort);
    std::vector<uint8_t> start(static_cast<size_t>(n_rows) * row_bytes_);
    std::vector<float> costs(static_cast<size_t>(n_rows));
    quantize_rows(task_.target_type, weights, start.data(), n_rows, source_.n(),
                  basis.importance.data());
    rows.quantize(weights, n_rows, start.data(), result, costs.data());
    for (int64_t row = 0; row < n_rows; ++row) {
        uint8_t* bytes = result + static_cast<size_t>(row) * row_bytes_;
        if (!ggml_validate_row_data(task_.target_type, bytes, row_bytes_)) {
            std::memcpy(bytes, start.data() + static_cast<size_t>(row) * row_bytes_, row_bytes_);
        }
    }
}

double FeedbackTensor::error_of(const std::vector<float>& moment, const float* weights,
                                const uint8_t* bytes, int64_t n_rows, double* per_row) const {
    return output_errors(moment.data(), source_.n(), weights, task_.target_type, bytes, n_rows,
                         per_row);
}

namespace {

constexpr MomentPart kHalves[] = {MomentPart::part, MomentPart::rest};

double sum_of(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value;
    return sum;
}

}  // namespace

FeedbackEffort FeedbackTensor::trial_effort() const {
    FeedbackEffort effort = options_.effort;
    effort.max_passes = std::min(effort.max_passes, 2);
    effort.max_grid_passes = std::min(effort.max_grid_passes, 1);
    effort.max_rounds = 1;
    return effort;
}

// What a choice needs to know of sampled rows, found here.
class FeedbackTensor::HostTrial {
  public:
    HostTrial(const FeedbackTensor& tensor, int64_t number)
        : tensor_(tensor), number_(number), weights_(tensor.sample(number, n_rows_)) {
        bytes_.resize(static_cast<size_t>(n_rows_) * tensor.row_bytes_);
    }

    // Errors under one half: of ggml's bytes, and of those fitted to the other half.
    void judge(int half) {
        const std::vector<double> mean = moments().mean(of(), kHalves[1 - half]);
        judged_.assign(mean.begin(), mean.end());
    }
    double plain_error() {
        tensor_.quantize_plainly(number_, weights_.data(), n_rows_, bytes_.data());
        return error();
    }
    double fitted_error(int half, size_t trust) {
        const std::vector<double> moment =
            moments().trusted(of(), kHalves[half], tensor_.options_.trusts[trust]);
        const FeedbackBasis basis =
            make_basis(moment.data(), moments().n(), tensor_.options_.damping);
        tensor_.quantize(basis, weights_.data(), n_rows_, tensor_.trial_effort(), bytes_.data());
        return error();
    }

  private:
    const MomentSource& moments() const { return tensor_.source_; }
    int64_t of() const { return tensor_.moment_of(number_); }
    double error() const {
        return tensor_.error_of(judged_, weights_.data(), bytes_.data(), n_rows_, nullptr);
    }

    const FeedbackTensor& tensor_;
    int64_t number_, n_rows_ = 0;
    std::vector<float> weights_, judged_;
    std::vector<uint8_t> bytes_;
};

// The same on a GPU, all bases at once where there are few.
class FeedbackTensor::DeviceTrial {
  public:
    DeviceTrial(const FeedbackTensor& tensor, int64_t number, FeedbackPlace& place)
        : tensor_(tensor), place_(place) {
        int64_t n_rows = 0;
        const std::vector<float> weights = tensor.sample(number, n_rows);
        place.take_rows(tensor.task_.target_type, weights.data(), n_rows);
        place.quantize_plainly(tensor.task_.slice_imatrix(number));
    }

    void judge(int half) { place_.judge_by(kHalves[1 - half]); }
    double plain_error() { return sum_of(place_.errors(-1)); }
    double fitted_error(int half, size_t trust) {
        const size_t n_trusts = tensor_.options_.trusts.size();
        const size_t at = static_cast<size_t>(half) * n_trusts + trust;
        if (at < begin_ || at >= begin_ + n_made_) make(at);
        return sum_of(place_.errors(static_cast<int>(at - begin_)));
    }

  private:
    void make(size_t begin) {
        const std::vector<Trust>& trusts = tensor_.options_.trusts;
        std::vector<BasisChoice> choices;
        for (size_t i = begin; i < 2 * trusts.size() && choices.size() < kMaxFeedbackBases; ++i) {
            choices.push_back({kHalves[i / trusts.size()], trusts[i % trusts.size()]});
        }
        place_.make_bases(choices, tensor_.options_.damping);
        place_.quantize(tensor_.trial_effort());
        begin_ = begin;
        n_made_ = choices.size();
    }

    const FeedbackTensor& tensor_;
    FeedbackPlace& place_;
    size_t begin_ = 0, n_made_ = 0;
};

// Are there inputs to hold out?
bool FeedbackTensor::can_judge(int64_t number) const {
    for (const MomentPart half : kHalves) {
        if (source_.count(moment_of(number), half) < options_.min_held_out) return false;
    }
    return true;
}

// False where ggml's bytes are no worse on held-out inputs.
template <class Trial>
bool FeedbackTensor::choose(int64_t number, Slice& slice, Trust& best, Trial& trial) const {
    std::vector<double> own(options_.trusts.size(), 0.0);
    double ggml = 0;
    for (int half = 0; half < 2; ++half) {
        trial.judge(half);
        const auto weight =
            static_cast<double>(source_.count(moment_of(number), kHalves[1 - half]));
        ggml += weight * trial.plain_error();
        for (size_t i = 0; i < own.size(); ++i) own[i] += weight * trial.fitted_error(half, i);
    }
    const auto least = std::min_element(own.begin(), own.end());
    best = options_.trusts[static_cast<size_t>(least - own.begin())];
    slice.held_out_error = std::min(*least, ggml);
    slice.held_out_ggml_error = ggml;
    return *least < ggml;
}

void FeedbackTensor::prepare(int64_t number, Slice& slice) const {
    const int64_t of = moment_of(number);
    slice.trust = options_.trusts.back();
    slice.keeps_ggml = source_.count(of, MomentPart::all) == 0;
    if (!slice.keeps_ggml && can_judge(number)) {
        HostTrial trial(*this, number);
        slice.keeps_ggml = !choose(number, slice, slice.trust, trial);
    }
    const std::vector<double> mean = source_.mean(of, MomentPart::all);
    slice.moment.assign(mean.begin(), mean.end());
    if (!slice.keeps_ggml) {
        const std::vector<double> moment = source_.trusted(of, MomentPart::all, slice.trust);
        slice.basis = make_basis(moment.data(), source_.n(), options_.damping);
    }
    slice.ready = true;
}

// The place holds the slice's moments.
const FeedbackTensor::Slice& FeedbackTensor::chosen_on_device(int64_t number,
                                                              FeedbackPlace& place) {
    Slice& slice = *slices_[static_cast<size_t>(number)];
    const std::lock_guard<std::mutex> lock(slice.mutex);
    if (slice.ready) return slice;
    slice.trust = options_.trusts.back();
    slice.keeps_ggml = source_.count(moment_of(number), MomentPart::all) == 0;
    if (!slice.keeps_ggml && can_judge(number)) {
        DeviceTrial trial(*this, number, place);
        slice.keeps_ggml = !choose(number, slice, slice.trust, trial);
    }
    slice.ready = true;
    return slice;
}

const FeedbackTensor::Slice& FeedbackTensor::prepared(int64_t number) {
    Slice& slice = *slices_[static_cast<size_t>(number)];
    const std::lock_guard<std::mutex> lock(slice.mutex);
    if (!slice.ready) prepare(number, slice);
    return slice;
}

int64_t FeedbackTensor::weights_per_unit() const {
    return devices_ ? kDeviceFeedbackWeights : RowsConverter::weights_per_unit();
}

void FeedbackTensor::convert(const RowUnit& unit, const float* weights, uint8_t* result) {
    if (!devices_) return finish(unit, convert_here(unit, weights, result));
    devices_->use([&](FeedbackPlace& place) {
        finish(unit, convert_on_device(unit, weights, result, place));
    });
}

// Rows that ended above ggml's bytes under the basis' moment keep those.
void FeedbackTensor::keep_better(const std::vector<double>& reached,
                                 const std::vector<double>& beginning, const uint8_t* plain,
                                 uint8_t* result) const {
    for (size_t row = 0; row < reached.size(); ++row) {
        if (reached[row] < beginning[row]) continue;
        std::memcpy(result + row * row_bytes_, plain + row * row_bytes_, row_bytes_);
    }
}

FeedbackTensor::RowErrors FeedbackTensor::convert_here(const RowUnit& unit, const float* weights,
                                                       uint8_t* result) {
    const Slice& slice = prepared(unit.slice);
    const int64_t n = source_.n(), n_rows = unit.n_rows;
    std::vector<uint8_t> plain(static_cast<size_t>(n_rows) * row_bytes_);
    quantize_plainly(unit.slice, weights, n_rows, plain.data());
    RowErrors errors(n_rows);
    error_of(slice.moment, weights, plain.data(), n_rows, errors.ggml.data());
    quadratic_forms(slice.moment.data(), n, weights, n_rows, errors.signal.data());
    if (slice.keeps_ggml) {
        std::memcpy(result, plain.data(), plain.size());
        errors.own = errors.ggml;
        return errors;
    }
    quantize(slice.basis, weights, n_rows, options_.effort, result);
    std::vector<double> reached(errors.own), beginning(reached);
    error_of(slice.basis.moment, weights, result, n_rows, reached.data());
    error_of(slice.basis.moment, weights, plain.data(), n_rows, beginning.data());
    keep_better(reached, beginning, plain.data(), result);
    error_of(slice.moment, weights, result, n_rows, errors.own.data());
    return errors;
}

FeedbackTensor::RowErrors FeedbackTensor::convert_on_device(const RowUnit& unit,
                                                            const float* weights, uint8_t* result,
                                                            FeedbackPlace& place) {
    place.take_moments(source_, moment_of(unit.slice));
    const Slice& slice = chosen_on_device(unit.slice, place);
    place.take_rows(task_.target_type, weights, unit.n_rows);
    place.judge_by(MomentPart::all);
    place.quantize_plainly(task_.slice_imatrix(unit.slice));
    RowErrors errors(unit.n_rows);
    errors.ggml = place.errors(-1);
    errors.signal = place.signals();
    std::vector<uint8_t> plain(static_cast<size_t>(unit.n_rows) * row_bytes_);
    place.read(-1, plain.data());
    if (slice.keeps_ggml) {
        std::memcpy(result, plain.data(), plain.size());
        errors.own = errors.ggml;
        return errors;
    }
    place.make_bases({{MomentPart::all, slice.trust}}, options_.damping);
    place.quantize(options_.effort);
    const std::vector<double> reached = place.errors_under_basis(0, 0);
    const std::vector<double> beginning = place.errors_under_basis(-1, 0);
    errors.own = place.errors(0);
    place.read(0, result);
    keep_better(reached, beginning, plain.data(), result);
    for (size_t row = 0; row < reached.size(); ++row) {
        if (!(reached[row] < beginning[row])) errors.own[row] = errors.ggml[row];
    }
    return errors;
}

void FeedbackTensor::finish(const RowUnit& unit, const RowErrors& errors) {
    const auto first =
        static_cast<size_t>(unit.slice * task_.source.rows.rows_per_slice + unit.first_row);
    for (size_t row = 0; row < errors.own.size(); ++row) {
        costs_[first + row] = {errors.own[row], errors.ggml[row], errors.signal[row]};
    }
    Slice& counted = *slices_[static_cast<size_t>(unit.slice)];
    const std::lock_guard<std::mutex> lock(counted.mutex);
    counted.rows_left -= unit.n_rows;
    if (counted.rows_left > 0) return;
    counted.basis = {};
    counted.moment = {};
}

OutputErrors FeedbackTensor::errors() const {
    OutputErrors result;
    const int64_t rows_per_slice = task_.source.rows.rows_per_slice;
    for (size_t row = 0; row < costs_.size(); ++row) {
        const int64_t slice = static_cast<int64_t>(row) / rows_per_slice;
        const int64_t of = source_.n_slices() == 1 ? 0 : slice;
        const auto tokens = static_cast<double>(source_.count(of, MomentPart::all));
        result.error += tokens * costs_[row].error;
        result.ggml_error += tokens * costs_[row].ggml_error;
        result.signal += tokens * costs_[row].signal;
    }
    for (const std::unique_ptr<Slice>& slice : slices_) {
        result.held_out_error += slice->held_out_error;
        result.held_out_ggml_error += slice->held_out_ggml_error;
        result.n_kept += slice->keeps_ggml ? 1 : 0;
    }
    result.n_slices = static_cast<int64_t>(slices_.size());
    return result;
}

}  // namespace apex
