#include "scoring/score_step.h"

#include <algorithm>

#include "core/error.h"

namespace apex {

int32_t ChunkShape::max_outputs() const {
    return n_sequences * std::min(n_positions, n_scored());
}

int32_t check_chunks(const ChunkShape& shape, size_t n_tokens) {
    // Below 4 tokens there is no scored position.
    if (shape.n_ctx < 4 || shape.n_sequences < 1 || shape.n_positions < 1) {
        fail<InvalidArgument>("expected a context of at least 4 tokens in at least one sequence, ",
                              "found ", shape.n_ctx, " in ", shape.n_sequences);
    }
    const auto n_ctx = static_cast<size_t>(shape.n_ctx);
    if (n_tokens < n_ctx || n_tokens % n_ctx != 0) {
        fail<InvalidArgument>("expected whole chunks of ", n_ctx, " tokens, found ", n_tokens);
    }
    return static_cast<int32_t>(n_tokens / n_ctx);
}

std::vector<Step> make_steps(const ChunkShape& shape, int32_t n_chunks) {
    std::vector<Step> steps;
    for (int32_t chunk = 0; chunk < n_chunks; chunk += shape.n_sequences) {
        const int32_t n_group = std::min(shape.n_sequences, n_chunks - chunk);
        for (int32_t begin = 0; begin < shape.n_computed(); begin += shape.n_positions) {
            Step step;
            step.first_chunk = chunk;
            step.n_chunks = n_group;
            step.begin = begin;
            step.end = std::min(begin + shape.n_positions, shape.n_computed());
            step.first_output = std::clamp(shape.first_scored(), step.begin, step.end);
            step.end_output = std::clamp(shape.end_scored(), step.first_output, step.end);
            steps.push_back(step);
        }
    }
    return steps;
}

size_t steps_per_group(const ChunkShape& shape) {
    return static_cast<size_t>((shape.n_computed() + shape.n_positions - 1) / shape.n_positions);
}

ScoredPlace scored_place(const ChunkShape& shape, const Step& step, int32_t i) {
    const int64_t chunk = step.first_chunk + i / step.n_outputs_per_chunk();
    const int64_t position = step.first_output + i % step.n_outputs_per_chunk();
    return {chunk * shape.n_ctx + position,
            chunk * shape.n_scored() + (position - shape.first_scored())};
}

}  // namespace apex
