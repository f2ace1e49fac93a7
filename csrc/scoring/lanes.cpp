#include "scoring/lanes.h"

#include "core/error.h"

namespace apex {
namespace {

// What all lanes are made of.
struct Setup {
    ChunkTokens tokens;
    LaneOptions options;
    ggml_backend_dev_t device;  // computes the head of a reference of hidden states too
    std::shared_ptr<const StopFlag> stop;

    std::unique_ptr<LogitsSource> source(const Lane& lane, const Candidate& candidate) const {
        // Parts leave the routers' tokens in another order.
        const ModelSourceOptions of_model{candidate.type_k, candidate.type_v,
                                          options.with_routes && candidate.n_parts == 1,
                                          candidate.n_parts};
        return std::make_unique<ModelSource>(candidate.model, lane.pool, options.shape, tokens,
                                             of_model, stop);
    }

    std::unique_ptr<LogitsSource> source(const Lane& lane, const Reference& reference) const {
        if (const auto* model = std::get_if<std::shared_ptr<Model>>(&reference)) {
            Candidate as_candidate;
            as_candidate.model = *model;
            return source(lane, as_candidate);
        }
        if (const auto* base = std::get_if<BaseReference>(&reference)) {
            return std::make_unique<BaseFileSource>(base->file, lane.pool, options.shape,
                                                    base->first_chunk);
        }
        if (const auto* hidden = std::get_if<std::shared_ptr<HiddenStates>>(&reference)) {
            return std::make_unique<HiddenSource>(*hidden, lane.pool, options.with_routes, device);
        }
        return nullptr;
    }
};

void check_sources(const Reference& reference, const std::vector<Candidate>& candidates) {
    for (const Candidate& candidate : candidates) {
        if (!candidate.model) fail<InvalidArgument>("a candidate has no model");
    }
    const auto* base = std::get_if<BaseReference>(&reference);
    if (base != nullptr && !base->file) fail<InvalidArgument>("a base reference has no file");
}

}  // namespace

void check_lanes(const LaneOptions& options) {
    if (options.n_lanes < 1 || options.n_threads < 1) {
        fail<InvalidArgument>("n_lanes, n_threads: expected at least 1, found ", options.n_lanes,
                              ", ", options.n_threads);
    }
}

std::unique_ptr<Scorer> make_scorer(const Reference& reference,
                                    const std::vector<Candidate>& candidates, ChunkTokens tokens,
                                    const LaneOptions& options,
                                    std::shared_ptr<const StopFlag> stop) {
    check_lanes(options);
    check_sources(reference, candidates);
    const Setup setup{tokens, options,
                      candidates.empty() ? nullptr : candidates.front().model->gpu(),
                      std::move(stop)};
    std::vector<Lane> lanes;
    for (int i = 0; i < options.n_lanes; ++i) {
        Lane& lane = lanes.emplace_back();
        lane.pool = std::make_shared<ThreadPool>(options.n_threads);
        lane.reference = setup.source(lane, reference);
        for (const Candidate& candidate : candidates) {
            lane.candidates.push_back(setup.source(lane, candidate));
        }
    }
    std::vector<int32_t> limits;
    for (const Candidate& candidate : candidates) {
        limits.push_back(candidate.n_chunks.value_or(INT32_MAX));
    }
    return std::make_unique<Scorer>(std::move(lanes), std::move(limits), options.shape,
                                    std::move(tokens));
}

}  // namespace apex
