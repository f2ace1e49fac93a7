#include "tasks/choice_score.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/worker_group.h"
#include "model/sequence_state.h"
#include "model/vocabulary.h"
#include "tasks/log_prob_hook.h"

namespace apex {
namespace {

// Enough tasks at once for full batches, few enough that masked attention stays cheap.
constexpr uint32_t kCellsPerBatchToken = 4;

constexpr int64_t kMaxTokens = INT32_MAX;

constexpr int kMaxLanes = 4;

// Enough for full batches.
constexpr size_t kBatchesOfGroup = 8;
// Of one lane, where a group's last batches cost more; what a stop loses is one group.
constexpr size_t kBatchesOfLoneGroup = 32;

void check_offsets(const std::vector<int64_t>& offsets, int64_t end, const char* name) {
    if (offsets.empty() || offsets.front() != 0 || offsets.back() != end) {
        fail<InvalidArgument>(name, ": expected offsets from 0 to ", end);
    }
    for (size_t i = 1; i < offsets.size(); ++i) {
        if (offsets[i] > offsets[i - 1]) continue;
        fail<InvalidArgument>(name, ": expected increasing offsets, found ", offsets[i], " after ",
                              offsets[i - 1]);
    }
}

void check_tasks(const ChoiceTasks& tasks, const Model& model) {
    const auto n_tokens = static_cast<int64_t>(tasks.tokens.size());
    const auto n_sequences = static_cast<int64_t>(tasks.scored_begin.size());
    if (n_tokens > kMaxTokens) {
        fail<InvalidArgument>("tokens: expected fewer than 2^31, found ", n_tokens);
    }
    check_offsets(tasks.sequence_begin, n_tokens, "sequence_begin");
    check_offsets(tasks.task_begin, n_sequences, "task_begin");
    if (tasks.sequence_begin.size() != tasks.scored_begin.size() + 1) {
        fail<InvalidArgument>("scored_begin: expected ", tasks.sequence_begin.size() - 1,
                              " entries, found ", n_sequences);
    }
    for (size_t i = 0; i < tasks.scored_begin.size(); ++i) {
        const int64_t length = tasks.sequence_begin[i + 1] - tasks.sequence_begin[i];
        if (tasks.scored_begin[i] >= 1 && tasks.scored_begin[i] < length) continue;
        fail<InvalidArgument>("scored_begin[", i, "]: expected 1 to ", length - 1, ", found ",
                              tasks.scored_begin[i]);
    }
    check_tokens(model.vocab(), tasks.tokens.data(), tasks.tokens.size());
}

std::vector<ChoiceTree> build_trees(const ChoiceTasks& tasks) {
    std::vector<ChoiceTree> trees;
    size_t term = 0;
    for (size_t t = 0; t + 1 < tasks.task_begin.size(); ++t) {
        std::vector<ChoiceSequence> sequences;
        for (int64_t i = tasks.task_begin[t]; i < tasks.task_begin[t + 1]; ++i) {
            const auto s = static_cast<size_t>(i);
            const auto length =
                static_cast<size_t>(tasks.sequence_begin[s + 1] - tasks.sequence_begin[s]);
            const auto scored_begin = static_cast<size_t>(tasks.scored_begin[s]);
            sequences.push_back(
                {tasks.tokens.data() + tasks.sequence_begin[s], length, scored_begin, term});
            term += length - scored_begin;
        }
        trees.push_back(build_choice_tree(std::move(sequences)));
    }
    return trees;
}

size_t count_terms(const ChoiceTasks& tasks) {
    const auto skipped =
        std::accumulate(tasks.scored_begin.begin(), tasks.scored_begin.end(), int64_t{0});
    return tasks.tokens.size() - static_cast<size_t>(skipped);
}

// Tasks of alike length run together, the longest first: batches are fuller.
void sort_by_length(std::vector<ChoiceTree>& trees) {
    std::stable_sort(trees.begin(), trees.end(), [](const ChoiceTree& a, const ChoiceTree& b) {
        const uint32_t a_prefix = a.nodes.front().n_tokens;
        const uint32_t b_prefix = b.nodes.front().n_tokens;
        return a_prefix != b_prefix ? a_prefix > b_prefix : a.n_tokens > b.n_tokens;
    });
}

ChoiceLimits choose_limits(const std::vector<ChoiceTree>& trees, const Model& model,
                           const ChoiceOptions& options) {
    size_t largest = 0;
    for (const ChoiceTree& tree : trees) largest = std::max(largest, tree.n_tokens);
    ChoiceLimits limits{};
    limits.n_batch = options.n_ubatch;
    limits.equal_lengths = model.is_recurrent() || model.is_hybrid();
    const uint64_t n_cells =
        options.n_ctx > 0 ? options.n_ctx : uint64_t{kCellsPerBatchToken} * options.n_ubatch;
    limits.n_cells = static_cast<uint32_t>(std::max<uint64_t>(n_cells, largest));

    const uint32_t least = ChoicePlanner::least_slots(trees);
    uint64_t n_slots = std::min(kMaxSequences, options.n_ubatch);
    const uint64_t state_bytes = state_bytes_per_sequence(model);
    if (state_bytes > 0) n_slots = std::min(n_slots, options.max_state_bytes / state_bytes);
    limits.n_slots = static_cast<uint32_t>(std::max<uint64_t>(n_slots, least));
    if (limits.n_slots > kMaxSequences) {
        fail<InvalidArgument>("a task branches ", least, " times, expected at most ",
                              kMaxSequences);
    }
    return limits;
}

// How many lanes the model allows. It says nothing of threads: batches, and with them the last bits
// of results, must not depend on their number.
int lanes_allowed(const ChoiceLimits& limits, const Model& model, const ChoiceOptions& options) {
    const uint64_t state_bytes = limits.n_slots * state_bytes_per_sequence(model);
    return model.on_gpu() || kMaxLanes * state_bytes > options.max_state_bytes ? 1 : kMaxLanes;
}

// As many groups as lanes may share, some for each, of a batch at least.
size_t count_groups(size_t n_tokens, int most_lanes, size_t n_batch) {
    if (most_lanes == 1) return std::max<size_t>(1, n_tokens / (kBatchesOfLoneGroup * n_batch));
    const auto n_lanes = static_cast<size_t>(most_lanes);
    const size_t n_rounds = std::max<size_t>(1, n_tokens / (n_lanes * kBatchesOfGroup * n_batch));
    return std::clamp<size_t>(n_tokens / n_batch, 1, n_rounds * n_lanes);
}

// Trees that are computed one after the other, n_tokens or somewhat more each: lanes end together.
std::vector<std::vector<ChoiceTree>> make_groups(std::vector<ChoiceTree> trees, size_t n_tokens) {
    std::vector<std::vector<ChoiceTree>> groups;
    size_t n_taken = n_tokens;
    for (ChoiceTree& tree : trees) {
        if (n_taken >= n_tokens) {
            groups.emplace_back();
            n_taken = 0;
        }
        n_taken += tree.n_tokens;
        groups.back().push_back(std::move(tree));
    }
    return groups;
}

ContextOptions context_options(const ChoiceLimits& limits, const ChoiceOptions& options) {
    ContextOptions result;
    result.n_ctx = limits.n_cells;
    result.n_batch = std::max(limits.n_batch, limits.n_slots);
    result.n_ubatch = result.n_batch;
    result.n_seq_max = limits.n_slots;
    result.kv_unified = true;
    result.type_k = options.type_k;
    result.type_v = options.type_v;
    result.leave_logits = true;
    return result;
}

// Adds a piece's tokens to the batch and, for each of its outputs, what is asked of it.
void add_piece(const ChoicePiece& piece, const ChoiceNode& node, Batch& batch,
               std::vector<LogProbHook::Row>& rows) {
    auto term =
        std::lower_bound(node.terms.begin(), node.terms.end(), piece.offset,
                         [](const ChoiceTerm& t, uint32_t offset) { return t.offset < offset; });
    for (uint32_t offset = piece.offset; offset < piece.offset + piece.n_tokens; ++offset) {
        const auto first = term;
        while (term != node.terms.end() && term->offset == offset) ++term;
        const auto n_terms = static_cast<size_t>(term - first);
        batch.add(node.tokens[offset], static_cast<llama_pos>(node.position + offset), piece.slot,
                  n_terms > 0);
        if (n_terms > 0) rows.push_back({&*first, n_terms});
    }
}

}  // namespace

ChoiceScorer::ChoiceScorer(std::shared_ptr<Model> model, int n_threads,
                           const ChoiceOptions& options, std::shared_ptr<const StopFlag> stop)
    : model_(std::move(model)), n_threads_(n_threads), options_(options), stop_(std::move(stop)) {
    if (options_.n_ubatch < 1) fail<InvalidArgument>("n_ubatch: expected at least 1, found 0");
    if (model_->has_encoder()) {
        fail<ModelError>(model_->path(), ": has an encoder; tasks need a model that only decodes");
    }
}

std::vector<double> ChoiceScorer::score(const ChoiceTasks& tasks, const FinishedGroups& before) {
    check_tasks(tasks, *model_);
    std::vector<double> log_probs(count_terms(tasks));
    std::vector<ChoiceTree> trees = build_trees(tasks);
    if (trees.empty()) return log_probs;
    sort_by_length(trees);
    uint64_t n_tokens = 0;
    for (const ChoiceTree& tree : trees) n_tokens += tree.n_tokens;
    n_tokens_done_ = 0;
    n_steps_ = 0;
    n_tokens_ = n_tokens;
    take_over(before, log_probs.size());
    run(std::move(trees), log_probs);
    return log_probs;
}

void ChoiceScorer::take_over(const FinishedGroups& before, size_t n_terms) {
    if (!before.groups.empty() && before.log_probs.size() != n_terms) {
        fail<InvalidArgument>("finished groups: expected ", n_terms, " log-probabilities, found ",
                              before.log_probs.size());
    }
    const std::lock_guard<std::mutex> lock(finished_mutex_);
    finished_ = before;
    finished_.log_probs.resize(n_terms);
}

void ChoiceScorer::finish_group(size_t group, const std::vector<ChoiceTree>& trees,
                                const std::vector<double>& log_probs) {
    const std::lock_guard<std::mutex> lock(finished_mutex_);
    for (const ChoiceTree& tree : trees) {
        for (const ChoiceNode& node : tree.nodes) {
            for (const ChoiceTerm& term : node.terms) {
                finished_.log_probs[term.term] = log_probs[term.term];
            }
        }
    }
    finished_.groups[group] = 1;
}

std::vector<uint8_t> ChoiceScorer::groups_done(size_t n_groups) {
    const std::lock_guard<std::mutex> lock(finished_mutex_);
    if (finished_.groups.empty()) finished_.groups.resize(n_groups);
    if (finished_.groups.size() != n_groups) {
        fail<InvalidArgument>("finished groups: expected ", n_groups, ", found ",
                              finished_.groups.size());
    }
    return finished_.groups;
}

FinishedGroups ChoiceScorer::finished() const {
    const std::lock_guard<std::mutex> lock(finished_mutex_);
    return finished_;
}

// What one thread (or several, of one pool) computes with. Single threads do not wait for each
// other at every node.
struct ChoiceScorer::Lane {
    std::shared_ptr<ThreadPool> pool;
    LogProbHook hook;
    Context context;

    Lane(const std::shared_ptr<Model>& model, int n_threads, const ContextOptions& options,
         const std::shared_ptr<const StopFlag>& stop)
        : pool(std::make_shared<ThreadPool>(n_threads)),
          hook(model->n_vocab(), pool),
          context(model, pool, options, &hook, stop) {}
};

void ChoiceScorer::run(std::vector<ChoiceTree> trees, std::vector<double>& log_probs) {
    const ChoiceLimits limits = choose_limits(trees, *model_, options_);
    const int most_lanes = lanes_allowed(limits, *model_, options_);
    const size_t n_groups = count_groups(n_tokens_, most_lanes, limits.n_batch);
    const auto groups = make_groups(std::move(trees), (n_tokens_ + n_groups - 1) / n_groups);
    const std::vector<uint8_t> done = groups_done(groups.size());
    log_probs = finished().log_probs;
    const int n_lanes = static_cast<int>(
        std::min<size_t>(static_cast<size_t>(std::min(most_lanes, n_threads_)), groups.size()));
    std::vector<std::unique_ptr<Lane>> lanes;
    for (int i = 0; i < n_lanes; ++i) {
        lanes.push_back(std::make_unique<Lane>(model_, std::max(1, n_threads_ / n_lanes),
                                               context_options(limits, options_), stop_));
    }
    run_lanes(lanes, static_cast<int64_t>(groups.size()),
              [&](std::unique_ptr<Lane>& lane, int64_t group) {
                  const auto g = static_cast<size_t>(group);
                  if (done[g] != 0) {
                      for (const ChoiceTree& tree : groups[g]) n_tokens_done_ += tree.n_tokens;
                      return;
                  }
                  run_group(*lane, groups[g], limits, log_probs);
                  finish_group(g, groups[g], log_probs);
              });
}

void ChoiceScorer::run_group(Lane& lane, const std::vector<ChoiceTree>& trees,
                             const ChoiceLimits& limits, std::vector<double>& log_probs) {
    lane.context.clear_memory();
    llama_memory_t memory = llama_get_memory(lane.context.get());
    ChoicePlanner planner(trees, limits);
    Batch batch;
    while (true) {
        const ChoiceStep step = planner.next();
        if (step.pieces.empty()) break;
        for (const llama_seq_id slot : step.forget) llama_memory_seq_rm(memory, slot, -1, -1);
        for (const auto& copy : step.copies) {
            llama_memory_seq_cp(memory, copy.from, copy.to, -1, -1);
        }
        batch.clear();
        std::vector<LogProbHook::Row> rows;
        for (const ChoicePiece& piece : step.pieces) {
            add_piece(piece, trees[piece.tree].nodes[piece.node], batch, rows);
        }
        lane.hook.expect(std::move(rows), log_probs.data());
        lane.context.decode(batch);
        if (!lane.hook.complete()) {
            fail<ModelError>(model_->path(), ": gave fewer logits than asked for");
        }
        n_tokens_done_ += batch.n_tokens();
        ++n_steps_;
    }
}

}  // namespace apex
