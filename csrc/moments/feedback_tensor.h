// A tensor quantized with error feedback, slice by slice.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "core/quantize_task.h"
#include "core/rows_converter.h"
#include "moments/device_feedback.h"
#include "moments/input_choices.h"

namespace apex {

// Slices where held-out inputs do not speak for other bytes keep ggml's (InputChoices); the others
// are quantized under all tokens. So does a row where the search, which is greedy, ends above them.
class FeedbackTensor : public RowsConverter {
  public:
    // choices: of the input that the tensor reads, perhaps with others. devices: does it on GPUs,
    // with the same bytes and numbers; null: here.
    FeedbackTensor(const QuantizeTask& task, std::shared_ptr<InputChoices> choices,
                   std::shared_ptr<FeedbackDevices> devices = nullptr);
    ~FeedbackTensor() override;

    const std::shared_ptr<InputChoices>& choices() const { return choices_; }

    void convert(const RowUnit& unit, const float* weights, uint8_t* result) override;
    int64_t weights_per_unit() const override;
    OutputErrors errors() const override;

  private:
    struct Slice;
    struct RowErrors {
        std::vector<double> own, ggml, signal;
        explicit RowErrors(int64_t n) : own(static_cast<size_t>(n)), ggml(own), signal(own) {}
    };
    struct RowCost {
        double error = 0, ggml_error = 0, signal = 0;
    };

    const MomentSource& source() const { return choices_->source(); }
    const Slice& prepared(int64_t slice);
    SliceChoice chosen(int64_t slice, FeedbackPlace& place);
    RowErrors convert_here(const RowUnit& unit, const float* weights, uint8_t* result);
    RowErrors convert_on_device(const RowUnit& unit, const float* weights, uint8_t* result,
                                FeedbackPlace& place);
    void keep_better(const std::vector<double>& reached, const std::vector<double>& beginning,
                     const uint8_t* plain, uint8_t* result) const;
    void finish(const RowUnit& unit, const RowErrors& errors);

    QuantizeTask task_;
    std::shared_ptr<InputChoices> choices_;
    std::shared_ptr<FeedbackDevices> devices_;
    size_t number_;  // among the choices' tensors
    size_t row_bytes_;
    std::vector<std::unique_ptr<Slice>> slices_;
    std::vector<RowCost> costs_;  // in row order
};

}  // namespace apex
