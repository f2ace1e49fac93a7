// Rows quantized with error feedback on GPUs, as FeedbackTensor sees it. Implemented by csrc/cuda;
// a build without CUDA has cuda/no_cuda.cpp, whose functions say so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "ggml.h"
#include "moments/feedback.h"
#include "moments/moment_source.h"

namespace apex {

// Which moment a basis is made of.
struct BasisChoice {
    MomentPart which;
    Trust trust;
};

// The rows of one slice on one GPU, what they are quantized under, and their bytes. Every number is
// the CPU's to the last bit. Used by one thread at a time. Functions throw DeviceError.
class FeedbackPlace {
  public:
    virtual ~FeedbackPlace() = default;

    // What follows is about this matrix's moments; uploads them unless they are those at hand.
    virtual void take_moments(const MomentSource& source, int64_t matrix) = 0;
    virtual void take_rows(ggml_type target, const float* weights, int64_t n_rows) = 0;

    // Errors are taken under the mean over these tokens.
    virtual void judge_by(MomentPart which) = 0;
    // Rows are quantized under each of these, kMaxFeedbackBases at most. Throws InvalidArgument
    // where a damped moment is not positive definite.
    virtual void make_bases(const std::vector<BasisChoice>& choices, double damping) = 0;

    // quantize_rows' bytes, with importances or without; bytes with error feedback under each
    // basis.
    virtual void quantize_plainly(const float* imatrix) = 0;
    virtual void quantize(const FeedbackEffort& effort) = 0;

    // Of each row; under the judge, or under a basis. basis: whose bytes; -1: the plain ones.
    virtual std::vector<double> errors(int basis) = 0;
    virtual std::vector<double> errors_under_basis(int basis, int under) = 0;
    // Of the weights themselves, under the judge.
    virtual std::vector<double> signals() = 0;
    virtual void read(int basis, uint8_t* bytes) = 0;
};

inline constexpr int kMaxFeedbackBases = 4;

// Of a unit, about: an expert of the usual size.
inline constexpr int64_t kDeviceFeedbackWeights = 1024 * 1024;

// Places on some GPUs, taken in turn.
class FeedbackDevices {
  public:
    virtual ~FeedbackDevices() = default;

    // Waits for a place that is free and calls work with it. Thread-safe.
    virtual void use(const std::function<void(FeedbackPlace&)>& work) = 0;
};

bool device_has_feedback(ggml_type type, int64_t n_per_row);

// At most n_places on each device, as many as fit there; n_per_row: of the longest rows.
std::shared_ptr<FeedbackDevices> make_feedback_devices(const std::vector<int>& devices,
                                                       int n_places, int64_t n_per_row);

}  // namespace apex
