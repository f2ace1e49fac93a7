#include "scoring/hidden_pass.h"

#include "core/error.h"
#include "core/worker_group.h"

namespace apex {

HiddenPass::HiddenPass(const std::shared_ptr<Model>& model, ChunkTokens tokens,
                       const LaneOptions& options, ModelSourceOptions of_model,
                       const std::string& folder, const std::shared_ptr<const StopFlag>& stop)
    : shape_(options.shape) {
    check_lanes(options);
    check_scorable(*model, shape_);
    const int32_t n_chunks = check_chunks(shape_, tokens->size());
    steps_ = make_steps(shape_, n_chunks);
    states_ = std::make_shared<HiddenStates>(*model, shape_, n_chunks, folder);
    of_model.with_routes = options.with_routes;
    for (int i = 0; i < options.n_lanes; ++i) {
        recorders_.push_back(
            std::make_unique<HiddenRecorder>(model, std::make_shared<ThreadPool>(options.n_threads),
                                             states_, tokens, of_model, false, stop));
    }
}

void HiddenPass::run(int32_t first_chunk) {
    const size_t n_steps = steps_per_group(shape_);
    const auto n_groups = static_cast<int64_t>(steps_.size() / n_steps);
    const int64_t first = first_chunk / shape_.n_sequences;
    if (first_chunk % shape_.n_sequences != 0 || first < 0 || first > n_groups) {
        fail<InvalidArgument>("first_chunk: expected whole groups of ", shape_.n_sequences,
                              " chunks, ", n_groups, " at most, found ", first_chunk);
    }
    n_done_ = first * static_cast<int64_t>(n_steps);
    const int64_t n_left = n_groups - first;
    run_lanes(recorders_, n_left, [&](std::unique_ptr<HiddenRecorder>& recorder, int64_t group) {
        for (size_t i = 0; i < n_steps; ++i) {
            recorder->compute(steps_[size_t(first + group) * n_steps + i]);
            n_done_.fetch_add(1);
        }
    });
}

}  // namespace apex
