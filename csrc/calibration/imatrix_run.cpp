#include "calibration/imatrix_run.h"

#include <algorithm>

#include "core/error.h"
#include "model/lm_head.h"
#include "model/skippable_nodes.h"
#include "model/vocabulary.h"
#include "moments/row_groups.h"

namespace apex {
namespace {

constexpr uint32_t kMaxTokens = 1u << 30;  // far from where 32 bits end

uint32_t sequences_of(const ImatrixOptions& options) {
    if (options.n_ctx < 2 || options.n_batch < 1 || options.n_ubatch < 1 ||
        std::max(options.n_ctx, options.n_batch) > kMaxTokens) {
        fail<InvalidArgument>("expected n_ctx from 2 and n_batch, n_ubatch from 1 to ", kMaxTokens,
                              ", found ", options.n_ctx, ", ", options.n_batch, ", ",
                              options.n_ubatch);
    }
    if (options.n_batch > options.n_ctx && options.n_batch % options.n_ctx != 0) {
        fail<InvalidArgument>("n_batch ", options.n_batch, " does not hold whole chunks of ",
                              options.n_ctx, " tokens; make it a multiple, or no larger");
    }
    return std::clamp(options.n_batch / options.n_ctx, 1u, kMaxSequences);
}

ContextOptions context_options(const ImatrixOptions& options) {
    ContextOptions result;
    result.n_seq_max = sequences_of(options);
    result.n_ctx = result.n_seq_max * padded_context(options.n_ctx);
    result.n_batch = std::min(options.n_batch, result.n_seq_max * options.n_ctx);
    result.n_ubatch = std::min(options.n_ubatch, result.n_batch);
    result.leave_logits = true;
    return result;
}

// All tokens are outputs, so that the last layer computes all of them.
OutputInput output_input_of(Context& context) {
    ggml_cgraph* graph = context.largest_graph();
    return graph == nullptr ? OutputInput{} : find_output_input(graph);
}

std::shared_ptr<InputMoments> make_moments(const ImatrixOptions& options) {
    if (!options.moments) return nullptr;
    return std::make_shared<InputMoments>(
        std::set<std::string>(options.weights.begin(), options.weights.end()));
}

}  // namespace

ImatrixRun::ImatrixRun(std::shared_ptr<Model> model, const ImatrixOptions& options,
                       std::shared_ptr<const StopFlag> stop)
    : options_(options),
      pool_(std::make_shared<ThreadPool>(options.n_threads)),
      moments_(make_moments(options)),
      trunk_(pool_, options.scope),
      block_(pool_, ImatrixScope::blocks),
      context_(std::move(model), pool_, context_options(options), &trunk_, stop) {
    trunk_.end_graphs_at(output_input_of(context_));
    if (moments_) {
        look_at_graph();
        trunk_.collect_moments(moments_);
        block_.collect_moments(moments_);
    }
    if (options.output_rows) {
        output_rows_ = std::make_shared<OutputRows>();
        trunk_.keep_output_rows(output_rows_);
    }
    use_border();
    const bool whole = options.weights.empty();
    if (whole && options.scope == ImatrixScope::everything) make_mtp_block(std::move(stop));
}

void ImatrixRun::look_at_graph() {
    ggml_cgraph* graph = context_.largest_graph();
    if (graph == nullptr) return;
    known_inputs_ = inputs_of(graph);
    if (!moments_->wanted().empty()) trunk_.end_graphs_behind(last_of(graph, moments_->wanted()));
}

// Where graphs have no known end, or no state of that layer, they are computed from their beginning
// and nothing is kept.
void ImatrixRun::use_border() {
    ggml_cgraph* graph = context_.largest_graph();
    if (graph == nullptr || !trunk_.knows_end()) return;
    const auto usable = [&](const BorderStates* states) {
        return states != nullptr && has_layer_state(graph, states->layer);
    };
    const bool starts = usable(options_.start.get()) && !options_.start->states.empty();
    const bool records = usable(options_.record.get());
    if (!starts && !records) return;
    trunk_.use_border(std::make_unique<LayerBorder>(starts ? options_.start : nullptr,
                                                    records ? options_.record : nullptr));
}

void ImatrixRun::make_mtp_block(std::shared_ptr<const StopFlag> stop) {
    if (n_mtp_heads(context_.model()) == 0) return;
    try {
        mtp_ = std::make_unique<MtpBlock>(context_, pool_, &block_, std::move(stop));
        block_.end_graphs_at(output_input_of(mtp_->context()));
    } catch (const ModelError& error) {
        mtp_.reset();
        mtp_reason_ = error.what();
    }
}

void ImatrixRun::add_chunks(std::vector<llama_token> tokens, bool in_part) {
    if (moments_) moments_->set_part(in_part);
    if (output_rows_) output_rows_->set_part(in_part);
    const size_t n_ctx = options_.n_ctx;
    const size_t n_chunks = tokens.size() / n_ctx;
    if (n_chunks < 1 || n_chunks > n_seq() || tokens.size() % n_ctx != 0) {
        fail<InvalidArgument>("expected 1 to ", n_seq(), " chunks of ", n_ctx, " tokens, found ",
                              tokens.size(), " tokens");
    }
    const llama_vocab* vocab = context_.model().vocab();
    check_tokens(vocab, tokens.data(), tokens.size());
    if (llama_vocab_get_add_bos(vocab) && llama_vocab_bos(vocab) != LLAMA_TOKEN_NULL) {
        for (size_t i = 0; i < n_chunks; ++i) tokens[i * n_ctx] = llama_vocab_bos(vocab);
    }
    n_tokens_before_ = trunk_.n_tokens_at_end();
    context_.clear_memory();
    if (mtp_) mtp_->clear_memory();
    const size_t n_batch = context_.options().n_batch;
    const size_t n_steps = (n_ctx + n_batch - 1) / n_batch;
    for (size_t step = 0; step < n_steps; ++step) decode_step(tokens, step);
}

void ImatrixRun::record_chunks(std::vector<llama_token> tokens, GroupRecord& record) {
    if (moments_) fail<InvalidArgument>("second moments are added up where they are computed");
    record.trunk.clear();
    record.block.clear();
    trunk_.record_into(&record.trunk);
    block_.record_into(&record.block);
    const auto finish = [&] {
        trunk_.record_into(nullptr);
        block_.record_into(nullptr);
        record.trunk.finish();
        record.block.finish();
    };
    try {
        add_chunks(std::move(tokens));
    } catch (...) {
        finish();  // nothing may write to the record once it can be freed
        throw;
    }
    finish();
}

GroupMoments ImatrixRun::output_moments(int n_groups, std::vector<int32_t>& groups) {
    if (!output_rows_) fail<InvalidArgument>("this run keeps no inputs of the output");
    ggml_cgraph* graph = context_.largest_graph();
    const ggml_tensor* logits = nullptr;
    for (int i = 0; graph != nullptr && i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor* node = ggml_graph_node(graph, i);
        if (kLogitsName == std::string(node->name)) logits = node;
    }
    if (logits == nullptr) fail<ModelError>("the model's graph has no logits");
    const LmHead head(context_.model().path(), read_recipe(logits));
    const LmHead::Weight& weight = head.weights().front();
    groups = group_rows(weight.type, weight.data, head.n_vocab(), head.n_embd(), n_groups,
                        pool_->n_threads());
    const int n = 1 + *std::max_element(groups.begin(), groups.end());
    return group_moments(head, *output_rows_, groups, n, *pool_);
}

// Step i of a chunk longer than a batch; the whole of several chunks otherwise.
void ImatrixRun::decode_step(const std::vector<llama_token>& tokens, size_t step) {
    const size_t n_ctx = options_.n_ctx;
    const size_t begin = step * context_.options().n_batch;
    const size_t end = std::min<size_t>(begin + context_.options().n_batch, n_ctx);
    std::vector<llama_token> taken;
    batch_.clear();
    for (size_t chunk = 0; chunk < tokens.size() / n_ctx; ++chunk) {
        for (size_t i = begin; i < end; ++i) {
            const llama_token token = tokens[chunk * n_ctx + i];
            batch_.add(token, static_cast<llama_pos>(i), static_cast<llama_seq_id>(chunk), true);
            taken.push_back(token);
        }
    }
    context_.decode(batch_);
    if (!mtp_) return;
    mtp_->decode(taken, static_cast<int32_t>(tokens.size() / n_ctx), static_cast<llama_pos>(begin));
}

}  // namespace apex
