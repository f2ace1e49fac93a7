// How far an input's second moments are believed, slice by slice: as far as held-out inputs agree.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/quantize_task.h"
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

// Of one slice of a tensor.
struct SliceChoice {
    bool keeps_ggml = false;  // no inputs, or held-out ones for which ggml's bytes are no worse
    Trust trust;
    double held_out_error = 0, held_out_ggml_error = 0;  // of sampled rows, tokens' sums
};

// Tensors that read one input have the same bases, which cost more than what they are tried on: so
// the worker that reaches a slice of one of them first chooses for all. It reads a sample of their
// rows and quantizes it under what one half of the calibration says, for each trust; the error
// under the other half decides.
class InputChoices {
  public:
    InputChoices(MomentSource source, FeedbackOptions options);
    virtual ~InputChoices();

    const MomentSource& source() const { return source_; }
    const FeedbackOptions& options() const { return options_; }
    int64_t moment_of(int64_t slice) const { return source_.n_slices() == 1 ? 0 : slice; }

    // Another tensor that reads the input, before anything is chosen; all have one type and shape.
    // Returns its number. Throws InvalidArgument.
    size_t add(const QuantizeTask& task);

    // place: does it there, and holds the slice's moments.
    SliceChoice of(size_t tensor, int64_t slice, FeedbackPlace* place = nullptr);

  private:
    struct Slice;
    struct Sample;
    class Errors;

    bool can_judge(int64_t slice) const;
    FeedbackEffort trial_effort() const;
    std::vector<Sample> samples(int64_t slice) const;
    void try_here(int64_t slice, std::vector<Errors>& errors) const;
    void try_on(int64_t slice, FeedbackPlace& place, std::vector<Errors>& errors) const;
    std::vector<SliceChoice> choose(int64_t slice, FeedbackPlace* place) const;

    MomentSource source_;
    FeedbackOptions options_;
    std::vector<QuantizeTask> tasks_;
    std::vector<std::unique_ptr<Slice>> slices_;
};

}  // namespace apex
