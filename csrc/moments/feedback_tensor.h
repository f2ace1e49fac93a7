// A tensor quantized with error feedback, slice by slice, each only as far as held-out inputs
// agree.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "core/quantize_task.h"
#include "core/rows_converter.h"
#include "moments/device_feedback.h"
#include "moments/feedback.h"
#include "moments/moment_source.h"

namespace apex {

struct FeedbackOptions {
    double damping = 0.3;  // of the mean of the diagonal
    // Judged on held-out inputs, from the boldest to the most careful, which is taken where there
    // are too few tokens to judge.
    std::vector<Trust> trusts = {{0.2, 512.0}, {0.5, 4096.0}};
    int64_t sampled_rows = 32;  // of a slice, that the choice is made on
    int64_t min_held_out = 64;  // tokens in either half that a choice needs
    FeedbackEffort effort;
};

// The worker that reaches a slice first reads a sample of its rows, quantizes it under what one
// half of the calibration says, for each trust, and takes the error under the other half: the best
// is used for all rows, with all tokens. Where ggml's bytes are no worse, the slice keeps them. So
// does a row where the search, which is greedy, ends above them.
class FeedbackTensor : public RowsConverter {
  public:
    // devices: does it on GPUs, with the same bytes and numbers; null: here.
    FeedbackTensor(const QuantizeTask& task, MomentSource source, FeedbackOptions options,
                   std::shared_ptr<FeedbackDevices> devices = nullptr);
    ~FeedbackTensor() override;

    void convert(const RowUnit& unit, const float* weights, uint8_t* result) override;
    int64_t weights_per_unit() const override;
    OutputErrors errors() const override;

  private:
    struct Slice;
    class HostTrial;
    class DeviceTrial;
    struct RowErrors {
        std::vector<double> own, ggml, signal;
        explicit RowErrors(int64_t n) : own(static_cast<size_t>(n)), ggml(own), signal(own) {}
    };
    struct RowCost {
        double error = 0, ggml_error = 0, signal = 0;
    };

    int64_t moment_of(int64_t slice) const { return source_.n_slices() == 1 ? 0 : slice; }
    FeedbackEffort trial_effort() const;
    const Slice& prepared(int64_t slice);
    void prepare(int64_t number, Slice& slice) const;
    const Slice& chosen_on_device(int64_t slice, FeedbackPlace& place);
    bool can_judge(int64_t number) const;
    template <class Trial>
    bool choose(int64_t number, Slice& slice, Trust& best, Trial& trial) const;
    RowErrors convert_here(const RowUnit& unit, const float* weights, uint8_t* result);
    RowErrors convert_on_device(const RowUnit& unit, const float* weights, uint8_t* result,
                                FeedbackPlace& place);
    void keep_better(const std::vector<double>& reached, const std::vector<double>& beginning,
                     const uint8_t* plain, uint8_t* result) const;
    void finish(const RowUnit& unit, const RowErrors& errors);
    std::vector<float> sample(int64_t slice, int64_t& n_rows) const;
    void quantize(const FeedbackBasis& basis, const float* weights, int64_t n_rows,
                  const FeedbackEffort& effort, uint8_t* result) const;
    void quantize_plainly(int64_t slice, const float* weights, int64_t n_rows,
                          uint8_t* result) const;
    double error_of(const std::vector<float>& moment, const float* weights, const uint8_t* bytes,
                    int64_t n_rows, double* per_row) const;

    QuantizeTask task_;
    MomentSource source_;
    FeedbackOptions options_;
    std::shared_ptr<FeedbackDevices> devices_;
    size_t row_bytes_;
    std::vector<std::unique_ptr<Slice>> slices_;
    std::vector<RowCost> costs_;  // in row order
};

}  // namespace apex
