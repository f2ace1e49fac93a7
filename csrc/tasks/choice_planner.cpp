#include "tasks/choice_planner.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace apex {
namespace {

// By node; nodes come after their parents.
std::vector<uint32_t> depths(const ChoiceTree& tree) {
    std::vector<uint32_t> result;
    for (const ChoiceNode& node : tree.nodes) {
        result.push_back(node.parent < 0 ? 0 : result[static_cast<size_t>(node.parent)] + 1);
    }
    return result;
}

uint32_t deepest(const std::vector<uint32_t>& depths) {
    return *std::max_element(depths.begin(), depths.end());
}

}  // namespace

uint32_t ChoicePlanner::least_slots(const std::vector<ChoiceTree>& trees) {
    uint32_t slots = 1;
    for (const ChoiceTree& tree : trees) slots = std::max(slots, deepest(depths(tree)) + 1);
    return slots;
}

ChoicePlanner::ChoicePlanner(const std::vector<ChoiceTree>& trees, const ChoiceLimits& limits)
    : trees_(trees), limits_(limits) {
    for (const ChoiceTree& tree : trees_) {
        depth_.push_back(depths(tree));
        max_depth_ = std::max(max_depth_, deepest(depth_.back()));
        std::vector<std::vector<uint32_t>> children(tree.nodes.size());
        for (uint32_t i = 0; i < tree.nodes.size(); ++i) {
            const int32_t parent = tree.nodes[i].parent;
            if (parent >= 0) children[static_cast<size_t>(parent)].push_back(i);
        }
        children_.push_back(std::move(children));
        nodes_left_.push_back(static_cast<uint32_t>(tree.nodes.size()));
    }
    held_at_depth_.resize(max_depth_ + 1);
    children_left_.resize(limits_.n_slots);
    for (uint32_t slot = 0; slot < limits_.n_slots; ++slot) {
        free_slots_.insert(static_cast<llama_seq_id>(slot));
    }
}

ChoiceStep ChoicePlanner::next() {
    ChoiceStep step;
    finish_nodes(step);
    start_nodes(step);
    admit_trees();
    start_nodes(step);
    take_pieces(step);
    return step;
}

uint32_t ChoicePlanner::remaining(const Run& run) const {
    return trees_[run.tree].nodes[run.node].n_tokens - run.offset;
}

void ChoicePlanner::finish_nodes(ChoiceStep& step) {
    const auto done = std::stable_partition(ready_.begin(), ready_.end(),
                                            [this](const Run& run) { return remaining(run) > 0; });
    for (auto run = done; run != ready_.end(); ++run) finish_node(*run, step);
    ready_.erase(done, ready_.end());
}

void ChoicePlanner::finish_node(const Run& run, ChoiceStep& step) {
    if (--nodes_left_[run.tree] == 0) {
        n_cells_used_ -= static_cast<uint32_t>(trees_[run.tree].n_tokens);
    }
    const std::vector<uint32_t>& children = children_[run.tree][run.node];
    if (children.empty()) {
        step.forget.push_back(run.slot);
        free_slots_.insert(run.slot);
        --held_at_depth_[depth_[run.tree][run.node]];
        return;
    }
    children_left_[static_cast<size_t>(run.slot)] = static_cast<uint32_t>(children.size());
    for (const uint32_t child : children) waiting_.push_back({run.tree, child, run.slot});
}

// Depth d may hold so many slots that every deeper level keeps one that the levels above it cannot
// take: whatever holds a slot and waits, the deepest nodes go on, end and free theirs.
bool ChoicePlanner::may_hold(uint32_t depth) const {
    const uint32_t held =
        std::accumulate(held_at_depth_.begin(), held_at_depth_.begin() + depth + 1, 0u);
    return !free_slots_.empty() && held + (max_depth_ - depth) < limits_.n_slots;
}

uint32_t ChoicePlanner::n_free_for_roots() const {
    const uint32_t n_allowed = limits_.n_slots - max_depth_;
    const uint32_t n_left = n_allowed - std::min(n_allowed, held_at_depth_[0]);
    return std::min(n_left, static_cast<uint32_t>(free_slots_.size()));
}

bool ChoicePlanner::start_node(const Waiting& waiting, ChoiceStep& step) {
    const uint32_t depth = depth_[waiting.tree][waiting.node];
    const llama_seq_id parent = waiting.parent_slot;
    llama_seq_id slot = parent;
    if (parent >= 0 && children_left_[static_cast<size_t>(parent)] == 1) {
        --held_at_depth_[depth - 1];
    } else {
        if (!may_hold(depth)) return false;
        slot = *free_slots_.begin();
        free_slots_.erase(free_slots_.begin());
        if (parent >= 0) step.copies.push_back({parent, slot});
    }
    if (parent >= 0) --children_left_[static_cast<size_t>(parent)];
    ++held_at_depth_[depth];
    ready_.push_back({waiting.tree, waiting.node, 0, slot});
    return true;
}

void ChoicePlanner::start_nodes(ChoiceStep& step) {
    std::deque<Waiting> still_waiting;
    for (const Waiting& waiting : waiting_) {
        if (!start_node(waiting, step)) still_waiting.push_back(waiting);
    }
    waiting_ = std::move(still_waiting);
}

void ChoicePlanner::admit_trees() {
    // Only while nothing waits for a slot: what has begun comes first.
    uint32_t n_free = waiting_.empty() ? n_free_for_roots() : 0;
    while (next_tree_ < trees_.size()) {
        const ChoiceTree& tree = trees_[next_tree_];
        std::vector<uint32_t> roots;
        for (uint32_t i = 0; i < tree.nodes.size(); ++i) {
            if (tree.nodes[i].parent < 0) roots.push_back(i);
        }
        const bool nothing_runs = ready_.empty() && waiting_.empty();
        const bool fits = n_cells_used_ + tree.n_tokens <= limits_.n_cells && n_free > 0;
        if (!fits && !nothing_runs) return;
        for (const uint32_t root : roots) waiting_.push_back({next_tree_, root, -1});
        n_free -= std::min(n_free, static_cast<uint32_t>(roots.size()));
        n_cells_used_ += static_cast<uint32_t>(tree.n_tokens);
        ++next_tree_;
    }
}

// The length at which the runs that have it left fill the batch best; the longer one of equals.
uint32_t ChoicePlanner::common_length() const {
    std::vector<uint32_t> lengths;
    for (const Run& run : ready_) lengths.push_back(std::min(remaining(run), limits_.n_batch));
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    uint32_t best_length = 0;
    uint32_t best_tokens = 0;
    for (uint32_t i = 0; i < lengths.size(); ++i) {
        const uint32_t n_runs = std::min(i + 1, limits_.n_batch / lengths[i]);
        if (n_runs * lengths[i] > best_tokens) {
            best_tokens = n_runs * lengths[i];
            best_length = lengths[i];
        }
    }
    return best_length;
}

void ChoicePlanner::take_pieces(ChoiceStep& step) {
    const uint32_t length = limits_.equal_lengths ? common_length() : 0;
    uint32_t room = limits_.n_batch;
    for (Run& run : ready_) {
        const uint32_t left = remaining(run);
        if (room == 0 || (length > 0 && (left < length || room < length))) continue;
        const uint32_t n_tokens = length > 0 ? length : std::min(left, room);
        step.pieces.push_back({run.tree, run.node, run.offset, n_tokens, run.slot});
        run.offset += n_tokens;
        room -= n_tokens;
    }
    std::sort(step.pieces.begin(), step.pieces.end(),
              [](const ChoicePiece& a, const ChoicePiece& b) { return a.slot < b.slot; });
}

}  // namespace apex
