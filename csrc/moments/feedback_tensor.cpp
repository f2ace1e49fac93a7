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
    int64_t rows_left = 0;
    double held_out_error = 0, held_out_ggml_error = 0;
    FeedbackBasis basis;
    std::vector<float> moment;  // mean over all tokens, as it was collected
};

FeedbackTensor::FeedbackTensor(const QuantizeTask& task, MomentSource source,
                               FeedbackOptions options)
    : task_(task),
      source_(std::move(source)),
      options_(std::move(options)),
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
    std::vector<float> errors(static_cast<size_t>(n_rows * source_.n()));
    convert_to_float(task_.target_type, bytes, errors.data(), n_rows * source_.n());
    for (size_t i = 0; i < errors.size(); ++i) errors[i] = weights[i] - errors[i];
    return quadratic_forms(moment.data(), source_.n(), errors.data(), n_rows, per_row);
}

// False where ggml's bytes are no worse on held-out inputs.
bool FeedbackTensor::choose(int64_t number, Slice& slice, Trust& best) const {
    const int64_t of = source_.n_slices() == 1 ? 0 : number;
    best = options_.trusts.back();
    if (source_.count(of, MomentPart::all) == 0) return false;
    const MomentPart halves[] = {MomentPart::part, MomentPart::rest};
    for (const MomentPart half : halves) {
        if (source_.count(of, half) < options_.min_held_out) return true;
    }
    int64_t n_rows = 0;
    const std::vector<float> weights = sample(number, n_rows);
    std::vector<uint8_t> bytes(static_cast<size_t>(n_rows) * row_bytes_);
    std::vector<double> own(options_.trusts.size(), 0.0);
    double ggml = 0;
    FeedbackEffort effort = options_.effort;
    effort.max_passes = std::min(effort.max_passes, 2);
    effort.max_grid_passes = std::min(effort.max_grid_passes, 1);
    for (int half = 0; half < 2; ++half) {
        const std::vector<double> judge = source_.mean(of, halves[1 - half]);
        const std::vector<float> judged(judge.begin(), judge.end());
        const auto weight = static_cast<double>(source_.count(of, halves[1 - half]));
        quantize_plainly(number, weights.data(), n_rows, bytes.data());
        ggml += weight * error_of(judged, weights.data(), bytes.data(), n_rows, nullptr);
        for (size_t i = 0; i < own.size(); ++i) {
            const std::vector<double> moment =
                source_.trusted(of, halves[half], options_.trusts[i]);
            const FeedbackBasis basis = make_basis(moment.data(), source_.n(), options_.damping);
            quantize(basis, weights.data(), n_rows, effort, bytes.data());
            own[i] += weight * error_of(judged, weights.data(), bytes.data(), n_rows, nullptr);
        }
    }
    const auto least = std::min_element(own.begin(), own.end());
    best = options_.trusts[static_cast<size_t>(least - own.begin())];
    slice.held_out_error = std::min(*least, ggml);
    slice.held_out_ggml_error = ggml;
    return *least < ggml;
}

void FeedbackTensor::prepare(int64_t number, Slice& slice) const {
    const int64_t of = source_.n_slices() == 1 ? 0 : number;
    Trust trust;
    slice.keeps_ggml = !choose(number, slice, trust);
    const std::vector<double> mean = source_.mean(of, MomentPart::all);
    slice.moment.assign(mean.begin(), mean.end());
    if (!slice.keeps_ggml) {
        const std::vector<double> moment = source_.trusted(of, MomentPart::all, trust);
        slice.basis = make_basis(moment.data(), source_.n(), options_.damping);
    }
    slice.ready = true;
}

const FeedbackTensor::Slice& FeedbackTensor::prepared(int64_t number) {
    Slice& slice = *slices_[static_cast<size_t>(number)];
    const std::lock_guard<std::mutex> lock(slice.mutex);
    if (!slice.ready) prepare(number, slice);
    return slice;
}

void FeedbackTensor::convert(const RowUnit& unit, const float* weights, uint8_t* result) {
    const Slice& slice = prepared(unit.slice);
    const int64_t n = source_.n(), n_rows = unit.n_rows;
    std::vector<uint8_t> plain(static_cast<size_t>(n_rows) * row_bytes_);
    quantize_plainly(unit.slice, weights, n_rows, plain.data());
    std::vector<double> own(static_cast<size_t>(n_rows)), ggml(own), signal(own);
    error_of(slice.moment, weights, plain.data(), n_rows, ggml.data());
    quadratic_forms(slice.moment.data(), n, weights, n_rows, signal.data());
    if (slice.keeps_ggml) {
        std::memcpy(result, plain.data(), plain.size());
        own = ggml;
    } else {
        quantize(slice.basis, weights, n_rows, options_.effort, result);
        std::vector<double> reached(own), beginning(own);
        error_of(slice.basis.moment, weights, result, n_rows, reached.data());
        error_of(slice.basis.moment, weights, plain.data(), n_rows, beginning.data());
        for (size_t row = 0; row < reached.size(); ++row) {
            if (reached[row] < beginning[row]) continue;
            std::memcpy(result + row * row_bytes_, plain.data() + row * row_bytes_, row_bytes_);
        }
        error_of(slice.moment, weights, result, n_rows, own.data());
    }
    const auto first =
        static_cast<size_t>(unit.slice * task_.source.rows.rows_per_slice + unit.first_row);
    for (size_t row = 0; row < own.size(); ++row) {
        costs_[first + row] = {own[row], ggml[row], signal[row]};
    }
    Slice& counted = *slices_[static_cast<size_t>(unit.slice)];
    const std::lock_guard<std::mutex> lock(counted.mutex);
    counted.rows_left -= n_rows;
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
