#include "model/score_step.h"

#include <algorithm>

namespace apex {

int32_t ChunkShape::max_outputs() const {
    return n_sequences * std::min(n_positions, n_scored());
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

}  // namespace apex
