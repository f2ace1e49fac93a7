#include "scoring/lanes.h"

#include <algorithm>

#include "core/error.h"

namespace apex {
namespace {

// Where a source computes; null: on the host, or nowhere.
using Device = ggml_backend_dev_t;

Device device_of(const Reference& reference) {
    if (const auto* recorded = std::get_if<RecordedReference>(&reference)) {
        return recorded->model->gpu();
    }
    const auto* model = std::get_if<std::shared_ptr<Model>>(&reference);
    return model == nullptr ? nullptr : (*model)->gpu();
}

Device device_of(const Candidate& candidate) {
    return candidate.hidden ? candidate.hidden->gpu() : candidate.model->gpu();
}

// Computes the head of a reference of hidden states.
Device device_of_head(const Reference& reference, const std::vector<Candidate>& candidates) {
    if (!candidates.empty()) return device_of(candidates.front());
    const auto* hidden = std::get_if<std::shared_ptr<HiddenStates>>(&reference);
    return hidden == nullptr ? nullptr : (*hidden)->gpu();
}

// Sources of different GPUs side by side, those of one in order; all in one where none or one of
// the GPUs is used. What is computed does not depend on it.
std::vector<Track> make_tracks(const Reference& reference,
                               const std::vector<Candidate>& candidates) {
    std::vector<Device> devices = {device_of(reference)};
    for (const Candidate& candidate : candidates) devices.push_back(device_of(candidate));
    std::vector<Device> order;
    for (const Device device : devices) {
        const bool is_new = std::find(order.begin(), order.end(), device) == order.end();
        if (is_new && device != nullptr) order.push_back(device);
    }
    const bool side_by_side = order.size() > 1;
    std::vector<Track> tracks(side_by_side ? order.size() : 1);
    for (size_t i = 0; i < devices.size(); ++i) {
        // What computes on no GPU goes with the first.
        const auto found = std::find(order.begin(), order.end(), devices[i]);
        const bool known = side_by_side && found != order.end();
        Track& track = tracks[known ? static_cast<size_t>(found - order.begin()) : 0];
        if (i == 0) {
            track.reference = true;
        } else {
            track.candidates.push_back(i - 1);
        }
    }
    return tracks;
}

// What all lanes are made of.
struct Setup {
    ChunkTokens tokens;
    LaneOptions options;
    Device device;  // computes the head of a reference of hidden states
    std::shared_ptr<const StopFlag> stop;

    std::unique_ptr<LogitsSource> source(const std::shared_ptr<ThreadPool>& pool,
                                         const Candidate& candidate) const {
        if (candidate.hidden) {
            return std::make_unique<HiddenSource>(candidate.hidden, pool, options.with_routes,
                                                  candidate.hidden->gpu());
        }
        // Parts leave the routers' tokens in another order.
        const ModelSourceOptions of_model{candidate.type_k, candidate.type_v,
                                          options.with_routes && candidate.n_parts == 1,
                                          candidate.n_parts};
        return std::make_unique<ModelSource>(candidate.model, pool, options.shape, tokens, of_model,
                                             stop);
    }

    std::unique_ptr<LogitsSource> source(const std::shared_ptr<ThreadPool>& pool,
                                         const Reference& reference) const {
        if (const auto* model = std::get_if<std::shared_ptr<Model>>(&reference)) {
            Candidate as_candidate;
            as_candidate.model = *model;
            return source(pool, as_candidate);
        }
        if (const auto* base = std::get_if<BaseReference>(&reference)) {
            return std::make_unique<BaseFileSource>(base->file, pool, options.shape,
                                                    base->first_chunk);
        }
        if (const auto* recorded = std::get_if<RecordedReference>(&reference)) {
            ModelSourceOptions of_model;
            of_model.with_routes = options.with_routes;
            return std::make_unique<HiddenRecorder>(recorded->model, pool, recorded->states, tokens,
                                                    of_model, true, stop);
        }
        if (const auto* hidden = std::get_if<std::shared_ptr<HiddenStates>>(&reference)) {
            return std::make_unique<HiddenSource>(*hidden, pool, options.with_routes, device);
        }
        return nullptr;
    }

    Lane lane(const Reference& reference, const std::vector<Candidate>& candidates) const {
        Lane lane;
        lane.pool = std::make_shared<ThreadPool>(options.n_threads);
        lane.tracks = make_tracks(reference, candidates);
        lane.candidates.resize(candidates.size());
        const int n_tracks = static_cast<int>(lane.tracks.size());
        for (const Track& track : lane.tracks) {
            // A pool computes one graph at a time.
            const auto pool =
                n_tracks == 1
                    ? lane.pool
                    : std::make_shared<ThreadPool>(std::max(1, options.n_threads / n_tracks));
            if (track.reference) lane.reference = source(pool, reference);
            for (const size_t i : track.candidates) {
                lane.candidates[i] = source(pool, candidates[i]);
            }
        }
        return lane;
    }
};

void check_sources(const Reference& reference, const std::vector<Candidate>& candidates) {
    const auto* recorded = std::get_if<RecordedReference>(&reference);
    if (recorded != nullptr && (!recorded->model || !recorded->states)) {
        fail<InvalidArgument>("a recorded reference needs a model and its hidden states");
    }
    for (const Candidate& candidate : candidates) {
        if (!candidate.model == !candidate.hidden) {
            fail<InvalidArgument>("a candidate has a model or hidden states, and not both");
        }
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
    const Setup setup{tokens, options, device_of_head(reference, candidates), std::move(stop)};
    std::vector<Lane> lanes;
    for (int i = 0; i < options.n_lanes; ++i) {
        lanes.push_back(setup.lane(reference, candidates));
    }
    std::vector<int32_t> limits;
    for (const Candidate& candidate : candidates) {
        limits.push_back(candidate.n_chunks.value_or(INT32_MAX));
    }
    return std::make_unique<Scorer>(std::move(lanes), std::move(limits), options.shape,
                                    std::move(tokens));
}

}  // namespace apex
