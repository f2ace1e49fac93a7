// In which steps the trees of many tasks are computed: full batches from little memory.
#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <vector>

#include "tasks/choice_tree.h"

namespace apex {

struct ChoiceLimits {
    uint32_t n_batch;  // tokens of a step at most
    uint32_t n_slots;  // sequences that llama.cpp keeps apart, at least least_slots(trees)
    uint32_t n_cells;  // tokens it remembers, at least those of the largest tree
    // Recurrent layers compute a batch in one go only where every sequence has as many tokens.
    bool equal_lengths;
};

// n_tokens of a node from offset on, in a sequence of llama.cpp.
struct ChoicePiece {
    uint32_t tree;
    uint32_t node;
    uint32_t offset;
    uint32_t n_tokens;
    llama_seq_id slot;
};

// First the slots to forget, then those to copy, then the tokens to compute together, by ascending
// slot: of recurrent models llama.cpp takes slots in that order, whatever that of the tokens
// (src/llama-batch.cpp, split_equal).
struct ChoiceStep {
    struct Copy {
        llama_seq_id from;
        llama_seq_id to;
    };
    std::vector<llama_seq_id> forget;
    std::vector<Copy> copies;
    std::vector<ChoicePiece> pieces;
};

// A task starts as soon as there is room for all its tokens. A slot is held by a node while it is
// computed and until all its children have begun; the last child takes over its parent's slot. A
// step takes from all nodes that are ready: runs of any length, or as many of one length as give
// the fullest batch.
class ChoicePlanner {
  public:
    // The trees must outlive the planner. They are begun in their order.
    ChoicePlanner(const std::vector<ChoiceTree>& trees, const ChoiceLimits& limits);

    // Without pieces: everything is computed. The step before has been carried out when it is
    // called again.
    ChoiceStep next();

    // Fewest slots with which every order of events comes to an end.
    static uint32_t least_slots(const std::vector<ChoiceTree>& trees);

  private:
    struct Run {
        uint32_t tree;
        uint32_t node;
        uint32_t offset;
        llama_seq_id slot;
    };
    struct Waiting {
        uint32_t tree;
        uint32_t node;
        llama_seq_id parent_slot;  // -1: a text begins
    };

    void finish_nodes(ChoiceStep& step);
    void finish_node(const Run& run, ChoiceStep& step);
    void admit_trees();
    void start_nodes(ChoiceStep& step);
    bool start_node(const Waiting& waiting, ChoiceStep& step);
    bool may_hold(uint32_t depth) const;
    uint32_t n_free_for_roots() const;
    uint32_t remaining(const Run& run) const;
    uint32_t common_length() const;
    void take_pieces(ChoiceStep& step);

    const std::vector<ChoiceTree>& trees_;
    ChoiceLimits limits_;
    std::vector<std::vector<std::vector<uint32_t>>> children_;  // by tree and node
    std::vector<std::vector<uint32_t>> depth_;                  // by tree and node, from 0
    uint32_t max_depth_ = 0;

    uint32_t next_tree_ = 0;
    uint32_t n_cells_used_ = 0;
    std::vector<uint32_t> nodes_left_;     // by tree
    std::vector<uint32_t> held_at_depth_;  // slots
    std::vector<uint32_t> children_left_;  // by slot: children that have not begun
    std::set<llama_seq_id> free_slots_;    // the lowest is used next
    std::deque<Waiting> waiting_;
    std::vector<Run> ready_;
};

}  // namespace apex
