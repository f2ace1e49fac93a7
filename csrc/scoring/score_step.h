// What all models of an evaluation compute at the same time: a piece of some chunks.
//
// A chunk is n_ctx tokens, its first one replaced by BOS where the vocabulary wants that; the
// predictions of positions n_ctx / 2 to n_ctx - 2 are scored (llama-perplexity's definition: the
// last token has no successor in the chunk). Several chunks, one sequence each, go together; each
// step computes the same positions of all of them.
#pragma once

#include <cstdint>
#include <vector>

#include "llama.h"

namespace apex {

struct ChunkShape {
    int32_t n_ctx = 512;        // tokens of a chunk
    int32_t n_sequences = 1;    // chunks computed together
    int32_t n_positions = 512;  // tokens of each that are computed at once

    int32_t first_scored() const { return n_ctx / 2; }
    int32_t end_scored() const { return n_ctx - 1; }
    int32_t n_scored() const { return end_scored() - first_scored(); }
    // No later token changes a score.
    int32_t n_computed() const { return end_scored(); }
    // Most outputs of one step.
    int32_t max_outputs() const;
};

struct Step {
    int32_t first_chunk = 0;
    int32_t n_chunks = 0;
    int32_t begin = 0;  // positions in the chunk
    int32_t end = 0;
    int32_t first_output = 0;  // the positions among them that are scored
    int32_t end_output = 0;

    int32_t n_outputs_per_chunk() const { return end_output - first_output; }
    // Outputs are ordered by chunk, then by position.
    int32_t n_outputs() const { return n_chunks * n_outputs_per_chunk(); }
};

// How many chunks so many tokens are. Throws InvalidArgument where they are no whole chunks, or the
// shape cannot be.
int32_t check_chunks(const ChunkShape& shape, size_t n_tokens);

// The steps of one group of chunks, then those of the next; every group has as many.
std::vector<Step> make_steps(const ChunkShape& shape, int32_t n_chunks);
size_t steps_per_group(const ChunkShape& shape);

// Where the i-th output of a step lies among all tokens and among all scored positions.
struct ScoredPlace {
    int64_t token;
    int64_t index;
};
ScoredPlace scored_place(const ChunkShape& shape, const Step& step, int32_t i);

}  // namespace apex
