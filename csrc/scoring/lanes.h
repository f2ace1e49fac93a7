// From what is compared to the lanes of a Scorer: contexts of their own over shared models.
#pragma once

#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "scoring/base_file.h"
#include "scoring/hidden_states.h"
#include "scoring/scorer.h"

namespace apex {

// How the chunks are computed, of one pass or of two.
struct LaneOptions {
    ChunkShape shape;
    int n_lanes = 1;
    int n_threads = 1;  // of each lane
    bool with_routes = false;
};

// A model to be scored.
struct Candidate {
    std::shared_ptr<Model> model;
    std::shared_ptr<HiddenStates> hidden = nullptr;  // in its place: computed before
    ggml_type type_k = GGML_TYPE_F16;
    ggml_type type_v = GGML_TYPE_F16;
    int32_t n_parts = 1;              // of each step: another batch shape, for the noise floor
    std::optional<int32_t> n_chunks;  // of the first ones, rounded up to whole groups; else all
};

// A base file whose chunk first_chunk is the text's first.
struct BaseReference {
    std::shared_ptr<BaseFile> file;
    int32_t first_chunk = 0;
};

// A model whose hidden states are recorded on the way: the beginning of a first pass.
struct RecordedReference {
    std::shared_ptr<Model> model;
    std::shared_ptr<HiddenStates> states;
};

// What candidates are compared with; nothing where they are scored alone.
using Reference = std::variant<std::monostate, std::shared_ptr<Model>, BaseReference,
                               RecordedReference, std::shared_ptr<HiddenStates>>;

// Throws InvalidArgument for options that contradict each other, what contexts throw.
std::unique_ptr<Scorer> make_scorer(const Reference& reference,
                                    const std::vector<Candidate>& candidates, ChunkTokens tokens,
                                    const LaneOptions& options,
                                    std::shared_ptr<const StopFlag> stop);

// Throws InvalidArgument unless there is a lane and it has a thread.
void check_lanes(const LaneOptions& options);

}  // namespace apex
