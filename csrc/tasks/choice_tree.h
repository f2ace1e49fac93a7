// The token sequences of one task as a tree: what they share is computed once.
#pragma once

#include <cstdint>
#include <vector>

#include "llama.h"

namespace apex {

// Tokens of which [scored_begin, n_tokens) get a log-probability, each given all before it.
struct ChoiceSequence {
    const llama_token* tokens;
    size_t n_tokens;
    size_t scored_begin;  // at least 1
    size_t first_term;    // where the log-probability of its first scored token goes
};

// The probability of this token after the node's token at offset.
struct ChoiceTerm {
    uint32_t offset;
    llama_token token;
    size_t term;
};

// A run of tokens that sequences [first_leaf, first_leaf + n_leaves) of the task have in common.
struct ChoiceNode {
    int32_t parent;  // -1: a text begins here
    uint32_t position;
    const llama_token* tokens;
    uint32_t n_tokens;
    uint32_t first_leaf;
    uint32_t n_leaves;
    std::vector<ChoiceTerm> terms;  // by offset
};

struct ChoiceTree {
    std::vector<ChoiceNode> nodes;  // a parent before its children, depth first
    uint32_t n_leaves = 0;
    size_t n_tokens = 0;  // of all nodes: what has to be computed
};

// The last token of a sequence is scored but never computed, and nothing is computed that no score
// needs. The tree points into the sequences' tokens.
ChoiceTree build_choice_tree(std::vector<ChoiceSequence> sequences);

}  // namespace apex
