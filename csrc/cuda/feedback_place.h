// moments/device_feedback.h on CUDA: one place.
#pragma once

#include "cuda/moment_basis.h"
#include "cuda/rows_job.h"
#include "cuda/runtime.h"
#include "cuda/search_job.cuh"
#include "moments/device_feedback.h"

namespace apex::cuda {

// Bytes of a GPU that a place of this width takes.
size_t feedback_place_bytes(int64_t n_per_row);

class Place final : public FeedbackPlace {
  public:
    Place(int device);
    ~Place() override;

    void take_moments(const MomentSource& source, int64_t matrix) override;
    void take_rows(ggml_type target, const float* weights, int64_t n_rows) override;
    void judge_by(MomentPart which) override;
    void make_bases(const std::vector<BasisChoice>& choices, double damping) override;
    void quantize_plainly(const float* imatrix) override;
    void quantize(const FeedbackEffort& effort) override;
    std::vector<double> errors(int basis) override;
    std::vector<double> errors_under_basis(int basis, int under) override;
    std::vector<double> signals() override;
    void read(int basis, uint8_t* bytes) override;

  private:
    // Device memory that grows; what it held is lost then.
    struct Room {
        DeviceBuffer buffer;

        template <typename T>
        T* of(size_t count) {
            if (buffer.size() < count * sizeof(T)) {
                buffer = DeviceBuffer();
                buffer = DeviceBuffer(count * sizeof(T));
            }
            return buffer.as<T>();
        }
    };

    size_t n_weights() const { return static_cast<size_t>(n_rows_ * n_); }
    size_t rows_bytes() const { return static_cast<size_t>(n_rows_) * row_bytes_; }
    // From one basis' bytes to the next's: kernels want addresses divisible by 16.
    size_t basis_bytes() const { return (rows_bytes() + 255) / 256 * 256; }
    uint8_t* bytes_of(int basis);
    MomentRecipe recipe_of(const BasisChoice& choice);
    void upload(const void* from, size_t bytes, void* to);
    void download(const void* from, size_t bytes, void* to);
    void quantize_as_ggml(const float* imatrix, const float* on_host, uint8_t* bytes);
    void search_again(SearchJob job, int count, int n_rounds);
    void find_errors(int basis, const uint8_t* fitted, double* per_row);
    std::vector<double> forms(const float* moment, const float* rows);
    std::vector<double> errors_under(const float* moment, int basis);

    int device_;
    Stream stream_;
    // Pinned memory that grows.
    struct Dock {
        PinnedBuffer buffer;
        size_t size = 0;

        void reserve(size_t bytes) {
            if (size >= bytes) return;
            buffer = PinnedBuffer();
            buffer = PinnedBuffer(bytes);
            size = bytes;
        }
        void* as() const { return buffer.as<void>(); }
    };
    Dock staging_, landing_;

    const MomentSource* source_ = nullptr;
    int64_t source_number_ = 0, matrix_ = -1, n_ = 0;
    Room total_, part_, layer_;
    Room judge_;
    int judged_by_ = -1;

    ggml_type type_ = GGML_TYPE_COUNT;
    int64_t n_rows_ = 0;
    size_t row_bytes_ = 0;
    std::vector<float> on_host_;
    Room weights_, differences_, products_, per_row_, imatrix_, flags_;
    Room plain_, start_, fitted_, next_, least_, reached_, scratch_;

    std::vector<BasisChoice> bases_;
    int basis_block_ = 0;
    double basis_damping_ = 0;
    Room matrix_room_, root_, added_, moment_, root_transposed_, importance_, block_root_,
        block_inverse_, failed_;
};

}  // namespace apex::cuda
