// Text through a model, chunk by chunk as llama-imatrix takes it, into an importance matrix.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "calibration/imatrix_collector.h"
#include "calibration/recorded_sums.h"
#include "model/context.h"
#include "model/mtp_block.h"

namespace apex {

struct ImatrixOptions {
    uint32_t n_ctx = 512;     // tokens of a chunk
    uint32_t n_batch = 2048;  // tokens handed over at once: n_batch / n_ctx chunks, 1 to 256
    uint32_t n_ubatch = 512;  // tokens computed at once
    int n_threads = 1;
    ImatrixScope scope = ImatrixScope::everything;
    bool moments = false;  // second moments of inputs too
    // Only these weights are collected, and graphs end behind the last of them; none: all.
    std::vector<std::string> weights = {};
    bool output_rows = false;  // the inputs of the output are kept too
    // Where graphs start, and what is kept for a later run with the same chunks; null: nothing.
    std::shared_ptr<const BorderStates> start = nullptr;
    std::shared_ptr<BorderStates> record = nullptr;
};

class ImatrixRun {
  public:
    // The MTP block is computed too where the model was loaded with it and has one.
    ImatrixRun(std::shared_ptr<Model> model, const ImatrixOptions& options,
               std::shared_ptr<const StopFlag> stop);

    // Chunks that are computed together.
    uint32_t n_seq() const { return context_.options().n_seq_max; }

    // Inputs on a GPU are copied and summed on the host, to compare the two.
    void sum_on_host_only() {
        trunk_.sum_on_host_only();
        block_.sum_on_host_only();
    }

    // Adds whole chunks, at most n_seq(); memory is empty before each. The first token of a chunk
    // is taken for BOS where the vocabulary wants one. Throws InvalidArgument for another number of
    // tokens or one outside the vocabulary, what Context::decode throws, and ModelError naming the
    // weight whose input is not finite. After a throw the sums hold part of a chunk.
    // in_part: these chunks belong to the part of the second moments that is kept beside the whole.
    void add_chunks(std::vector<llama_token> tokens, bool in_part = false);

    // The same, into a record in place of the sums, which is cleared first. Throws InvalidArgument
    // for a run of second moments; after a throw the record holds nothing of use.
    void record_chunks(std::vector<llama_token> tokens, GroupRecord& record);

    // The trunk's inputs and who reads them, before anything is computed.
    const std::vector<KnownInput>& known_inputs() const { return known_inputs_; }

    // Tokens computed so far of the group that add_chunks is at, about; from any thread.
    int64_t n_tokens_of_group() const { return trunk_.n_tokens_seen() - n_tokens_before_; }

    // Null where none are collected.
    InputMoments* moments() const { return moments_.get(); }
    // As InputMoments::take.
    void take_moment(const std::string& input, float* total, float* part) {
        moments_->take(input, total, part, *pool_);
    }

    // Of the inputs of the output that were kept, for n_groups groups of its rows at most: the
    // group of each row, and each group's moments. Throws InvalidArgument where none were kept,
    // ModelError where the output cannot be computed apart from the model.
    GroupMoments output_moments(int n_groups, std::vector<int32_t>& groups);

    // What is collected of the trunk's weights, and of the MTP block's.
    ImatrixTotals& totals(bool of_mtp_block) { return (of_mtp_block ? block_ : trunk_).totals(); }

    // Why the model's MTP block is not computed; empty where it is, or there is none.
    const std::string& mtp_reason() const { return mtp_reason_; }

  private:
    void look_at_graph();
    void use_border();
    void make_mtp_block(std::shared_ptr<const StopFlag> stop);
    void decode_step(const std::vector<llama_token>& tokens, size_t step);

    ImatrixOptions options_;
    std::shared_ptr<ThreadPool> pool_;
    std::shared_ptr<InputMoments> moments_;
    std::shared_ptr<OutputRows> output_rows_;
    std::vector<KnownInput> known_inputs_;
    ImatrixCollector trunk_;
    ImatrixCollector block_;
    Context context_;
    std::unique_ptr<MtpBlock> mtp_;
    std::string mtp_reason_;
    std::atomic<int64_t> n_tokens_before_{0};
    Batch batch_;
};

}  // namespace apex
