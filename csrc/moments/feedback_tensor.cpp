#include "moments/feedback_tensor.h"

#include <cstring>

#include "core/checks.h"
#include "moments/fitted_rows.h"
#include "moments/quadratic_form.h"

namespace apex {

struct FeedbackTensor::Slice {
    std::mutex mutex;
    bool ready = false;
    SliceChoice choice;
    int64_t rows_left = 0;
    FeedbackBasis basis;
    std::vector<float> moment;  // mean over all tokens, as it was collected
};

FeedbackTensor::FeedbackTensor(const QuantizeTask& task, std::shared_ptr<InputChoices> choices,
                               std::shared_ptr<FeedbackDevices> devices)
    : task_(task),
      choices_(std::move(choices)),
      devices_(std::move(devices)),
      number_(choices_->add(task)),
      row_bytes_(row_bytes(task.target_type, task.source.rows.n_per_row)) {
    const TensorRows& rows = task.source.rows;
    costs_.resize(static_cast<size_t>(rows.n_rows()));
    for (int64_t i = 0; i < rows.n_slices; ++i) {
        slices_.push_back(std::make_unique<Slice>());
        slices_.back()->rows_left = rows.rows_per_slice;
    }
}

FeedbackTensor::~FeedbackTensor() = default;

const FeedbackTensor::Slice& FeedbackTensor::prepared(int64_t number) {
    Slice& slice = *slices_[static_cast<size_t>(number)];
    const std::lock_guard<std::mutex> lock(slice.mutex);
    if (slice.ready) return slice;
    slice.choice = choices_->of(number_, number);
    const int64_t of = choices_->moment_of(number);
    const std::vector<double> mean = source().mean(of, MomentPart::all);
    slice.moment.assign(mean.begin(), mean.end());
    if (!slice.choice.keeps_ggml) {
        const std::vector<double> moment =
            source().trusted(of, MomentPart::all, slice.choice.trust);
        slice.basis = make_basis(moment.data(), source().n(), choices_->options().damping);
    }
    slice.ready = true;
    return slice;
}

// The place holds the slice's moments.
SliceChoice FeedbackTensor::chosen(int64_t number, FeedbackPlace& place) {
    Slice& slice = *slices_[static_cast<size_t>(number)];
    const std::lock_guard<std::mutex> lock(slice.mutex);
    slice.choice = choices_->of(number_, number, &place);
    return slice.choice;
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
    const int64_t n = source().n(), n_rows = unit.n_rows;
    const auto measure = [&](const std::vector<float>& moment, const uint8_t* bytes,
                             std::vector<double>& per_row) {
        output_errors(moment.data(), n, weights, task_.target_type, bytes, n_rows, per_row.data());
    };
    std::vector<uint8_t> plain(static_cast<size_t>(n_rows) * row_bytes_);
    quantize_plainly(task_, unit.slice, weights, n_rows, plain.data());
    RowErrors errors(n_rows);
    measure(slice.moment, plain.data(), errors.ggml);
    quadratic_forms(slice.moment.data(), n, weights, n_rows, errors.signal.data());
    if (slice.choice.keeps_ggml) {
        std::memcpy(result, plain.data(), plain.size());
        errors.own = errors.ggml;
        return errors;
    }
    fit_rows(task_.target_type, slice.basis, choices_->options().effort, weights, n_rows, result);
    std::vector<double> reached(errors.own), beginning(reached);
    measure(slice.basis.moment, result, reached);
    measure(slice.basis.moment, plain.data(), beginning);
    keep_better(reached, beginning, plain.data(), result);
    measure(slice.moment, result, errors.own);
    return errors;
}

FeedbackTensor::RowErrors FeedbackTensor::convert_on_device(const RowUnit& unit,
                                                            const float* weights, uint8_t* result,
                                                            FeedbackPlace& place) {
    const FeedbackOptions& options = choices_->options();
    place.take_moments(source(), choices_->moment_of(unit.slice));
    const SliceChoice choice = chosen(unit.slice, place);
    place.take_rows(task_.target_type, weights, unit.n_rows);
    place.judge_by(MomentPart::all);
    place.quantize_plainly(task_.slice_imatrix(unit.slice));
    RowErrors errors(unit.n_rows);
    errors.ggml = place.errors(-1);
    errors.signal = place.signals();
    std::vector<uint8_t> plain(static_cast<size_t>(unit.n_rows) * row_bytes_);
    place.read(-1, plain.data());
    if (choice.keeps_ggml) {
        std::memcpy(result, plain.data(), plain.size());
        errors.own = errors.ggml;
        return errors;
    }
    place.make_bases({{MomentPart::all, choice.trust}}, options.damping);
    place.quantize(options.effort);
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
        const int64_t of = choices_->moment_of(slice);
        const auto tokens = static_cast<double>(source().count(of, MomentPart::all));
        result.error += tokens * costs_[row].error;
        result.ggml_error += tokens * costs_[row].ggml_error;
        result.signal += tokens * costs_[row].signal;
    }
    for (const std::unique_ptr<Slice>& slice : slices_) {
        result.held_out_error += slice->choice.held_out_error;
        result.held_out_ggml_error += slice->choice.held_out_ggml_error;
        result.n_kept += slice->choice.keeps_ggml ? 1 : 0;
    }
    result.n_slices = static_cast<int64_t>(slices_.size());
    return result;
}

}  // namespace apex
