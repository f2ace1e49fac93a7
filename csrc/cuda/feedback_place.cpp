#include "cuda/feedback_place.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/quantize_rows.h"
#include "cuda/moment_recipe.h"
#include "cuda/quadratic_forms.h"
#include "cuda/scalar_search.h"
#include "moments/products.h"

namespace apex::cuda {
namespace {

size_t squared(int64_t n) {
    return static_cast<size_t>(n) * static_cast<size_t>(n);
}

constexpr int64_t kMinRows = 32;  // FeedbackOptions::sampled_rows

bool is_same(const BasisChoice& one, const BasisChoice& other) {
    return one.which == other.which && one.trust.shrink == other.trust.shrink &&
           one.trust.layer_tokens == other.trust.layer_tokens;
}

}  // namespace

size_t feedback_place_bytes(int64_t n_per_row) {
    const auto n = static_cast<size_t>(n_per_row);
    const size_t weights = std::max(static_cast<size_t>(kDeviceFeedbackWeights),
                                    kMinRows * n);  // floats; scratch, products, bytes
    const size_t moments = squared(n_per_row) / 2 * (2 * sizeof(float) + 3 * sizeof(double));
    const size_t bases = squared(n_per_row) * (2 * sizeof(double) + 2 * sizeof(float));
    return moments + kMaxFeedbackBases * (bases + n * 256) + squared(n_per_row) * sizeof(float) +
           weights * (2 * sizeof(float) + sizeof(double) + 4 * sizeof(float) + 17);
}

Place::Place(int device) : device_((use_device(device), device)) {}

// Nothing may be freed while the device still reads and writes it.
Place::~Place() {
    cudaStreamSynchronize(stream_.get());
}

// Through pinned memory: workers copy there side by side, and the device fetches at its own speed.
void Place::upload(const void* from, size_t bytes, void* to) {
    stream_.wait();  // for what was staged before
    staging_.reserve(bytes);
    std::memcpy(staging_.as(), from, bytes);
    stream_.copy(to, staging_.as(), bytes);
}

// Through pinned memory too: a copy to any other holds the device's lock until the stream's work is
// done, and workers would wait for each other.
void Place::download(const void* from, size_t bytes, void* to) {
    landing_.reserve(bytes);
    stream_.copy(landing_.as(), from, bytes);
    stream_.wait();
    std::memcpy(to, landing_.as(), bytes);
}

void Place::take_moments(const MomentSource& source, int64_t matrix) {
    use_device(device_);
    const auto packed = static_cast<size_t>(packed_size(source.n()));
    source_ = &source;
    if (source_number_ != source.number()) {
        source_number_ = source.number();
        matrix_ = -1;
        n_ = source.n();
        auto* layer = layer_.of<double>(3 * packed);
        for (const MomentPart which : {MomentPart::all, MomentPart::part, MomentPart::rest}) {
            const double* mean = source.layer_mean(which);
            if (mean == nullptr) continue;
            upload(mean, packed * sizeof(double), layer + static_cast<size_t>(which) * packed);
        }
    }
    if (matrix_ == matrix) return;
    matrix_ = matrix;
    judged_by_ = -1;
    bases_.clear();
    upload(source.total(matrix), packed * sizeof(float), total_.of<float>(packed));
    upload(source.part(matrix), packed * sizeof(float), part_.of<float>(packed));
}

void Place::take_rows(ggml_type target, const float* weights, int64_t n_rows) {
    use_device(device_);
    type_ = target;
    n_rows_ = n_rows;
    row_bytes_ = ggml_row_size(target, n_);
    on_host_.assign(weights, weights + n_rows * n_);
    upload(weights, n_weights() * sizeof(float), weights_.of<float>(n_weights()));
}

MomentRecipe Place::recipe_of(const BasisChoice& choice) {
    const auto packed = static_cast<size_t>(packed_size(n_));
    MomentRecipe recipe{};
    recipe.total = total_.of<float>(packed);
    recipe.part = part_.of<float>(packed);
    recipe.takes_total = choice.which == MomentPart::all;
    recipe.less_part = choice.which == MomentPart::rest;
    recipe.tokens = static_cast<double>(source_->count(matrix_, choice.which));
    recipe.kept = 1.0 - choice.trust.shrink;
    if (source_->layer_mean(choice.which) != nullptr) {
        recipe.layer = layer_.of<double>(3 * packed) + static_cast<size_t>(choice.which) * packed;
        recipe.layer_tokens = choice.trust.layer_tokens;
        recipe.tokens += choice.trust.layer_tokens;
    }
    return recipe;
}

void Place::judge_by(MomentPart which) {
    use_device(device_);
    if (judged_by_ == static_cast<int>(which)) return;
    APEX_CUDA_CALL(launch_moment(recipe_of({which, Trust{}}), static_cast<int>(n_),
                                 judge_.of<float>(squared(n_)), stream_.get()));
    judged_by_ = static_cast<int>(which);
}

void Place::make_bases(const std::vector<BasisChoice>& choices, double damping) {
    use_device(device_);
    const int block = scalar_format(type_)->block;
    if (basis_block_ == block && basis_damping_ == damping && bases_.size() == choices.size() &&
        std::equal(bases_.begin(), bases_.end(), choices.begin(), is_same)) {
        return;
    }
    if (choices.size() > kMaxFeedbackBases) fail<InvalidArgument>("too many bases at once");
    const size_t count = choices.size(), area = count * squared(n_);
    const size_t columns = count * static_cast<size_t>(n_);
    const size_t in_blocks = columns * static_cast<size_t>(block);
    const BasisBuffers buffers{matrix_room_.of<double>(area),
                               root_.of<double>(area),
                               added_.of<double>(count),
                               moment_.of<float>(area),
                               root_transposed_.of<float>(area),
                               importance_.of<float>(columns),
                               block_root_.of<float>(in_blocks),
                               block_inverse_.of<float>(in_blocks),
                               failed_.of<int>(1)};
    std::vector<MomentRecipe> recipes;
    for (const BasisChoice& choice : choices) recipes.push_back(recipe_of(choice));
    APEX_CUDA_CALL(cudaMemsetAsync(buffers.failed, 0, sizeof(int), stream_.get()));
    APEX_CUDA_CALL(launch_bases(recipes.data(), static_cast<int>(count), static_cast<int>(n_),
                                damping, block, buffers, stream_.get()));
    int failed = 0;
    download(buffers.failed, sizeof(int), &failed);
    bases_.clear();
    if (failed != 0) {
        fail<InvalidArgument>("a second moment of ", n_, " columns, damped by ", damping,
                              ", is not positive definite");
    }
    bases_ = choices;
    basis_block_ = block;
    basis_damping_ = damping;
}

// ggml's bytes of the rows; those the GPU hands back are done here. on_host: the same importances.
void Place::quantize_as_ggml(const float* imatrix, const float* on_host, uint8_t* bytes) {
    const auto n_rows = static_cast<size_t>(n_rows_);
    auto* flags = flags_.of<uint8_t>(n_rows);
    APEX_CUDA_CALL(cudaMemsetAsync(flags, 0, n_rows, stream_.get()));
    RowsJob job;
    job.src = weights_.of<float>(n_weights());
    job.source = Source::f32;
    job.imatrix = imatrix;
    job.dst = bytes;
    job.n_blocks = n_rows_ * n_ / ggml_blck_size(type_);
    job.blocks_per_row = n_ / ggml_blck_size(type_);
    job.overflowed = flags;
    check(launch_rows(type_, imatrix != nullptr, job, stream_.get()), "cudaLaunchKernel(quantize)");
    std::vector<uint8_t> handed_back(n_rows);
    download(flags, n_rows, handed_back.data());
    std::vector<uint8_t> row(row_bytes_);
    std::vector<float> importances;
    for (size_t i = 0; i < n_rows; ++i) {
        if (handed_back[i] == 0) continue;
        if (imatrix != nullptr && on_host == nullptr) {
            importances.resize(static_cast<size_t>(n_));
            download(imatrix, importances.size() * sizeof(float), importances.data());
            on_host = importances.data();
        }
        quantize_rows(type_, on_host_.data() + static_cast<int64_t>(i) * n_, row.data(), 1, n_,
                      on_host);
        upload(row.data(), row_bytes_, bytes + i * row_bytes_);
    }
}

void Place::quantize_plainly(const float* imatrix) {
    use_device(device_);
    float* on_device = nullptr;
    if (imatrix != nullptr) {
        const auto n = static_cast<size_t>(n_);
        on_device = imatrix_.of<float>(n);
        upload(imatrix, n * sizeof(float), on_device);
    }
    quantize_as_ggml(on_device, imatrix, plain_.of<uint8_t>(rows_bytes()));
}

void Place::quantize(const FeedbackEffort& effort) {
    use_device(device_);
    const auto count = static_cast<int>(bases_.size());
    const size_t bytes = bases_.size() * basis_bytes();
    auto* start = start_.of<uint8_t>(bytes);
    for (int basis = 0; basis < count; ++basis) {
        quantize_as_ggml(importance_.buffer.as<float>() + basis * n_, nullptr,
                         start + static_cast<size_t>(basis) * basis_bytes());
    }
    SearchJob job{};
    job.format = *scalar_format(type_);
    job.n = static_cast<int>(n_);
    job.n_rows = static_cast<int>(n_rows_);
    job.weights = weights_.of<float>(n_weights());
    job.start = start;
    job.result = fitted_.of<uint8_t>(bytes);
    job.basis_bytes = basis_bytes();
    job.row_bytes = row_bytes_;
    job.block_bytes = ggml_type_size(type_);
    job.bases = {moment_.buffer.as<float>(), root_transposed_.buffer.as<float>(),
                 block_root_.buffer.as<float>(), block_inverse_.buffer.as<float>()};
    job.scale_radius = effort.scale_radius;
    job.refine_radius = effort.refine_radius;
    job.max_passes = effort.max_passes;
    job.scratch = scratch_.of<float>(static_cast<size_t>(search_floats(job) * count));
    APEX_CUDA_CALL(launch_search(job, count, stream_.get()));
    search_again(job, count, effort.rounds(type_, n_));
}

// FeedbackRows::quantize's rounds after the first, whose result keeps the best rows.
void Place::search_again(SearchJob job, int count, int n_rounds) {
    if (n_rounds < 2) return;
    const size_t n_rows = static_cast<size_t>(n_rows_), size = static_cast<size_t>(count) * n_rows;
    auto *least = least_.of<double>(size), *reached = reached_.of<double>(size);
    uint8_t *const kept = job.result, *spare = start_.buffer.as<uint8_t>();
    for (int basis = 0; basis < count; ++basis) {
        find_errors(basis, kept, least + static_cast<size_t>(basis) * n_rows);
    }
    job.start = kept;
    job.result = next_.of<uint8_t>(static_cast<size_t>(count) * basis_bytes());
    for (int round = 1; round < n_rounds; ++round) {
        APEX_CUDA_CALL(launch_search(job, count, stream_.get()));
        for (int basis = 0; basis < count; ++basis) {
            const size_t at = static_cast<size_t>(basis) * n_rows;
            const size_t bytes = static_cast<size_t>(basis) * basis_bytes();
            find_errors(basis, job.result, reached + at);
            APEX_CUDA_CALL(launch_keep_less(reached + at, job.result + bytes,
                                            static_cast<int>(n_rows_), row_bytes_, least + at,
                                            kept + bytes, stream_.get()));
        }
        job.start = job.result;
        std::swap(job.result, spare);
    }
}

// Of a basis' rows in fitted, which holds them basis after basis, under its own moment.
void Place::find_errors(int basis, const uint8_t* fitted, double* per_row) {
    auto* differences = differences_.of<float>(n_weights());
    APEX_CUDA_CALL(launch_differences(type_, fitted + static_cast<size_t>(basis) * basis_bytes(),
                                      weights_.of<float>(n_weights()), n_rows_, n_, differences,
                                      stream_.get()));
    APEX_CUDA_CALL(
        launch_forms(moment_.buffer.as<float>() + static_cast<size_t>(basis) * squared(n_),
                     static_cast<int>(n_), differences, static_cast<int>(n_rows_),
                     products_.of<double>(n_weights()), per_row, stream_.get()));
}

uint8_t* Place::bytes_of(int basis) {
    if (basis < 0) return plain_.of<uint8_t>(rows_bytes());
    return fitted_.buffer.as<uint8_t>() + static_cast<size_t>(basis) * basis_bytes();
}

std::vector<double> Place::forms(const float* moment, const float* rows) {
    const auto n_rows = static_cast<size_t>(n_rows_);
    auto* per_row = per_row_.of<double>(n_rows);
    APEX_CUDA_CALL(launch_forms(moment, static_cast<int>(n_), rows, static_cast<int>(n_rows_),
                                products_.of<double>(n_weights()), per_row, stream_.get()));
    std::vector<double> result(n_rows);
    download(per_row, n_rows * sizeof(double), result.data());
    return result;
}

std::vector<double> Place::errors_under(const float* moment, int basis) {
    use_device(device_);
    auto* differences = differences_.of<float>(n_weights());
    APEX_CUDA_CALL(launch_differences(type_, bytes_of(basis), weights_.of<float>(n_weights()),
                                      n_rows_, n_, differences, stream_.get()));
    return forms(moment, differences);
}

std::vector<double> Place::errors(int basis) {
    return errors_under(judge_.of<float>(squared(n_)), basis);
}

std::vector<double> Place::errors_under_basis(int basis, int under) {
    return errors_under(moment_.buffer.as<float>() + static_cast<size_t>(under) * squared(n_),
                        basis);
}

std::vector<double> Place::signals() {
    use_device(device_);
    return forms(judge_.of<float>(squared(n_)), weights_.of<float>(n_weights()));
}

void Place::read(int basis, uint8_t* bytes) {
    use_device(device_);
    download(bytes_of(basis), rows_bytes(), bytes);
}

}  // namespace apex::cuda
