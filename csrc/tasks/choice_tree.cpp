#include "tasks/choice_tree.h"

#include <algorithm>

namespace apex {
namespace {

size_t path_length(const ChoiceSequence& sequence) {
    return sequence.n_tokens - 1;
}

bool path_less(const ChoiceSequence& a, const ChoiceSequence& b) {
    return std::lexicographical_compare(a.tokens, a.tokens + path_length(a), b.tokens,
                                        b.tokens + path_length(b));
}

class TreeBuilder {
  public:
    explicit TreeBuilder(std::vector<ChoiceSequence> sequences) : sequences_(std::move(sequences)) {
        std::stable_sort(sequences_.begin(), sequences_.end(), path_less);
        add_children(0, sequences_.size(), 0, -1);
    }

    ChoiceTree tree;

  private:
    // Nodes for sequences [first, last), which are equal before depth. Shorter ones come first.
    void add_children(size_t first, size_t last, size_t depth, int32_t parent) {
        while (first < last && path_length(sequences_[first]) == depth) ++first;
        while (first < last) {
            const llama_token token = sequences_[first].tokens[depth];
            size_t end = first + 1;
            while (end < last && sequences_[end].tokens[depth] == token) ++end;
            add_node(first, end, depth, parent);
            first = end;
        }
    }

    void add_node(size_t first, size_t last, size_t depth, int32_t parent) {
        // Sorted: what the first and the last share, all share.
        const ChoiceSequence& a = sequences_[first];
        const ChoiceSequence& b = sequences_[last - 1];
        const size_t limit = std::min(path_length(a), path_length(b));
        size_t end = depth + 1;
        while (end < limit && a.tokens[end] == b.tokens[end]) ++end;

        const auto index = static_cast<int32_t>(tree.nodes.size());
        ChoiceNode node{parent,
                        static_cast<uint32_t>(depth),
                        a.tokens + depth,
                        static_cast<uint32_t>(end - depth),
                        tree.n_leaves,
                        0,
                        {}};
        for (size_t i = first; i < last; ++i) add_terms(sequences_[i], node);
        std::stable_sort(
            node.terms.begin(), node.terms.end(),
            [](const ChoiceTerm& x, const ChoiceTerm& y) { return x.offset < y.offset; });
        tree.n_tokens += node.n_tokens;
        tree.nodes.push_back(std::move(node));
        add_children(first, last, end, index);

        const bool is_leaf = static_cast<size_t>(index) + 1 == tree.nodes.size();
        if (is_leaf) ++tree.n_leaves;
        ChoiceNode& added = tree.nodes[static_cast<size_t>(index)];
        added.n_leaves = tree.n_leaves - added.first_leaf;
    }

    static void add_terms(const ChoiceSequence& sequence, ChoiceNode& node) {
        const size_t node_end = node.position + node.n_tokens;
        const size_t begin = std::max<size_t>(sequence.scored_begin, node.position + 1);
        const size_t end = std::min(sequence.n_tokens, node_end + 1);
        for (size_t i = begin; i < end; ++i) {
            node.terms.push_back({static_cast<uint32_t>(i - 1 - node.position), sequence.tokens[i],
                                  sequence.first_term + i - sequence.scored_begin});
        }
    }

    std::vector<ChoiceSequence> sequences_;
};

}  // namespace

ChoiceTree build_choice_tree(std::vector<ChoiceSequence> sequences) {
    return std::move(TreeBuilder(std::move(sequences)).tree);
}

}  // namespace apex
