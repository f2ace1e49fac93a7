#include "scoring/logits_source.h"

#include <algorithm>
#include <cstring>

#include "core/device_memory.h"
#include "core/error.h"
#include "ggml-backend.h"
#include "model/lm_head.h"
#include "model/tensor_place.h"

namespace apex {

void check_scorable(const Model& model, const ChunkShape& shape) {
    if (model.has_encoder()) {
        fail<InvalidArgument>(model.path(), " has an encoder; only decoders have a perplexity");
    }
    if (shape.n_ctx > model.n_ctx_train()) {
        fail<InvalidArgument>("a context of ", shape.n_ctx, " tokens is longer than the ",
                              model.n_ctx_train(), " ", model.path(),
                              " was made for; choose a smaller one");
    }
}

ContextOptions context_options(const ChunkShape& shape, const ModelSourceOptions& source) {
    ContextOptions options;
    options.type_k = source.type_k;
    options.type_v = source.type_v;
    options.n_seq_max = static_cast<uint32_t>(shape.n_sequences);
    options.n_ctx = padded_context(static_cast<uint32_t>(shape.n_ctx)) * options.n_seq_max;
    options.n_batch = static_cast<uint32_t>(shape.n_positions * shape.n_sequences);
    options.n_ubatch = options.n_batch;
    options.n_outputs_max = static_cast<uint32_t>(shape.max_outputs());
    options.leave_logits = true;
    return options;
}

void fill_batch(Batch& batch, const llama_vocab* vocab, const ChunkShape& shape,
                const std::vector<llama_token>& tokens, const Step& step, int32_t begin,
                int32_t end) {
    const bool add_bos = llama_vocab_get_add_bos(vocab);
    batch.clear();
    for (int32_t sequence = 0; sequence < step.n_chunks; ++sequence) {
        const int64_t chunk = int64_t{step.first_chunk + sequence} * shape.n_ctx;
        for (int32_t position = begin; position < end; ++position) {
            const bool is_bos = position == 0 && add_bos;
            const llama_token token =
                is_bos ? llama_vocab_bos(vocab) : tokens[static_cast<size_t>(chunk + position)];
            const bool is_output = position >= step.first_output && position < step.end_output;
            batch.add(token, position, sequence, is_output);
        }
    }
}

ModelSource::ModelSource(std::shared_ptr<Model> model, std::shared_ptr<ThreadPool> pool,
                         const ChunkShape& shape, ChunkTokens tokens,
                         const ModelSourceOptions& options, std::shared_ptr<const StopFlag> stop)
    : shape_(shape),
      tokens_(std::move(tokens)),
      options_(options),
      rows_(model->n_vocab()),
      context_((check_scorable(*model, shape), std::move(model)), std::move(pool),
               context_options(shape, options), this, std::move(stop)) {}

bool ModelSource::wants(const ggml_tensor* node) {
    return std::strcmp(node->name, kLogitsName) == 0 ||
           (options_.with_routes && RouterHook::wants(node));
}

bool ModelSource::observe(ggml_tensor* node) {
    if (std::strcmp(node->name, kLogitsName) != 0) {
        routes_.observe(node);
        return true;
    }
    rows_.take(node, context_.model().path());
    return true;
}

void ModelSource::decode(const Step& step, int32_t begin, int32_t end) {
    fill_batch(batch_, context_.model().vocab(), shape_, *tokens_, step, begin, end);
    rows_.clear();
    context_.decode(batch_);
    if (batch_.n_outputs() > 0 && rows_.n() != static_cast<int64_t>(batch_.n_outputs())) {
        fail<ModelError>(context_.model().path(), ": llama.cpp computed ", rows_.n(),
                         " outputs at once where ", batch_.n_outputs(), " were expected");
    }
}

float* ModelSource::room_for_parts(size_t n) {
    if (rows_.device() < 0) {
        joined_.resize(n);
        return joined_.data();
    }
    if (!device_joined_ || device_joined_->size() < n * sizeof(float)) {
        device_joined_.reset();
        device_joined_ = make_device_rows(rows_.device(), n * sizeof(float));
    }
    return device_joined_->data();
}

// Copies the rows of a part to their places among the rows of the step.
void ModelSource::keep_part(const Step& step, int32_t begin, int32_t end) {
    const int32_t first = std::clamp(step.first_output, begin, end);
    const int32_t n = std::clamp(step.end_output, first, end) - first;
    if (n == 0) return;
    float* joined = room_for_parts(static_cast<size_t>(step.n_outputs() * n_vocab()));
    for (int32_t chunk = 0; chunk < step.n_chunks; ++chunk) {
        const int64_t to = chunk * step.n_outputs_per_chunk() + (first - step.first_output);
        const float* from = rows_.row(int64_t{chunk} * n);
        if (rows_.device() < 0) {
            std::copy_n(from, n * n_vocab(), joined + to * n_vocab());
        } else {
            device_joined_->copy_from(static_cast<size_t>(to * n_vocab()) * sizeof(float), from,
                                      static_cast<size_t>(n * n_vocab()) * sizeof(float));
        }
    }
}

void ModelSource::compute(const Step& step) {
    if (step.begin == 0) context_.clear_memory();
    routes_.clear();
    if (options_.n_parts == 1) {
        decode(step, step.begin, step.end);
        return;
    }
    const int32_t n = step.end - step.begin;
    for (int32_t part = 0; part < options_.n_parts; ++part) {
        const int32_t begin = step.begin + part * n / options_.n_parts;
        const int32_t end = step.begin + (part + 1) * n / options_.n_parts;
        if (begin == end) continue;
        decode(step, begin, end);
        keep_part(step, begin, end);
    }
    // The first steps of a chunk may have no output: nothing was kept, and there may be no buffer.
    if (step.n_outputs() == 0) return;
    const float* joined = rows_.device() < 0 ? joined_.data() : device_joined_->data();
    rows_.set(joined, step.n_outputs(), rows_.device());
}

}  // namespace apex
