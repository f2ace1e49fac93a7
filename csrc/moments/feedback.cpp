#include "moments/feedback.h"

#include <cstring>

#include "core/error.h"
#include "kernels/kernels.h"
#include "moments/quadratic_form.h"

namespace apex {
namespace feedback {

#define APEX_DECLARE(isa)                                                                         \
    namespace isa {                                                                               \
    void quantize_scalar_rows(const ScalarFormat& format, const Search& search,                   \
                              const float* weights, int64_t n_rows, const uint8_t* start,         \
                              uint8_t* result, float* costs);                                     \
    void quantize_grid_rows(const GridFormat& format, const Search& search, const float* weights, \
                            int64_t n_rows, const uint8_t* start, uint8_t* result, float* costs); \
    }
APEX_DECLARE(portable)
#if defined(APEX_FEEDBACK_X86)
APEX_DECLARE(avx2)
APEX_DECLARE(avx512)
#endif
#undef APEX_DECLARE

QuantizeScalarRows scalar_rows() {
#if defined(APEX_FEEDBACK_X86)
    const kernels::Isa isa = kernels::best_isa();
    if (isa == kernels::Isa::avx512) return avx512::quantize_scalar_rows;
    if (isa == kernels::Isa::avx2) return avx2::quantize_scalar_rows;
#endif
    return portable::quantize_scalar_rows;
}

QuantizeGridRows grid_rows() {
#if defined(APEX_FEEDBACK_X86)
    const kernels::Isa isa = kernels::best_isa();
    if (isa == kernels::Isa::avx512) return avx512::quantize_grid_rows;
    if (isa == kernels::Isa::avx2) return avx2::quantize_grid_rows;
#endif
    return portable::quantize_grid_rows;
}

}  // namespace feedback

bool has_feedback(ggml_type type) {
    return scalar_format(type) != nullptr || grid_format(type) != nullptr;
}

int FeedbackEffort::rounds(ggml_type type, int64_t n) const {
    if (n > max_round_columns) return 1;
    return scalar_format(type) != nullptr ? max_rounds : max_grid_rounds;
}

FeedbackRows::FeedbackRows(ggml_type type, const FeedbackBasis& basis, const FeedbackEffort& effort)
    : type_(type),
      scalar_(scalar_format(type)),
      grid_(grid_format(type)),
      basis_(basis),
      effort_(effort) {
    if (scalar_ == nullptr && grid_ == nullptr) {
        fail<InvalidArgument>("no error feedback into ", ggml_type_name(type));
    }
    blocks_ = make_blocks(basis, scalar_ != nullptr ? scalar_->block : grid_->block);
    if (grid_ != nullptr) groups_ = make_blocks(basis, 8);
}

void FeedbackRows::search(const float* weights, int64_t n_rows, const uint8_t* start,
                          uint8_t* result, float* costs) const {
    const feedback::Search search{&basis_, &blocks_, grid_ != nullptr ? &groups_ : nullptr,
                                  effort_};
    if (scalar_ != nullptr) {
        feedback::scalar_rows()(*scalar_, search, weights, n_rows, start, result, costs);
    } else {
        feedback::grid_rows()(*grid_, search, weights, n_rows, start, result, costs);
    }
}

std::vector<double> FeedbackRows::errors(const float* weights, int64_t n_rows,
                                         const uint8_t* bytes) const {
    std::vector<double> per_row(static_cast<size_t>(n_rows));
    output_errors(basis_.moment.data(), basis_.n, weights, type_, bytes, n_rows, per_row.data());
    return per_row;
}

void FeedbackRows::quantize(const float* weights, int64_t n_rows, const uint8_t* start,
                            uint8_t* result, float* costs) const {
    search(weights, n_rows, start, result, costs);
    const int n_rounds = effort_.rounds(type_, basis_.n);
    if (n_rounds < 2) return;
    const size_t row_bytes = ggml_row_size(type_, basis_.n);
    std::vector<uint8_t> last(result, result + static_cast<size_t>(n_rows) * row_bytes), next(last);
    std::vector<float> next_costs(static_cast<size_t>(n_rows));
    std::vector<double> least = errors(weights, n_rows, result);
    for (int round = 1; round < n_rounds; ++round) {
        search(weights, n_rows, last.data(), next.data(), next_costs.data());
        const std::vector<double> reached = errors(weights, n_rows, next.data());
        for (size_t row = 0; row < reached.size(); ++row) {
            if (!(reached[row] < least[row])) continue;
            least[row] = reached[row];
            costs[row] = next_costs[row];
            std::memcpy(result + row * row_bytes, next.data() + row * row_bytes, row_bytes);
        }
        last.swap(next);
    }
}

}  // namespace apex
