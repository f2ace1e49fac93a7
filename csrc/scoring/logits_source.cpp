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
    if (node->type != GGML_TYPE_F32 || node->ne[0] != n_vocab() || !ggml_is_contiguous(node)) {
        fail<ModelError>(context_.model().path(), ": expected rows of ", n_vocab(),
                         " F32 logits, found ", ggml_type_name(node->type), " rows of ",
                         node->ne[0]);
    }
    n_rows_ = ggml_nrows(node);
    if (n_rows_ == 0) return true;  // no token of the batch is an output
    device_ = device_of_tensor(node);
    if (device_ >= 0 || is_on_host(node)) {
        // llama.cpp marks the node as an output: nothing else is put there before the next decode.
        rows_ = static_cast<const float*>(node->data);
    } else {
        copy_.resize(static_cast<size_t>(ggml_nelements(node)));
        ggml_backend_tensor_get(node, copy_.data(), 0, ggml_nbytes(node));
        rows_ = copy_.data();
    }
    return true;
}

void ModelSource::decode(const Step& step, int32_t begin, int32_t end) {
    fill_batch(batch_, context_.model().vocab(), shape_, *tokens_, step, begin, end);
    n_rows_ = 0;
    context_.decode(batch_);
    if (batch_.n_outputs() > 0 && n_rows_ != static_cast<int64_t>(batch_.n_outputs())) {
        fail<ModelError>(context_.model().path(), ": llama.cpp computed ", n_rows_,
                         " outputs at once where ", batch_.n_outputs(), " were expected");
    }
}

float* ModelSource::room_for_parts(size_t n) {
    if (device_ < 0) {
        joined_.resize(n);
        return joined_.data();
    }
    if (!device_joined_ || device_joined_->size() < n * sizeof(float)) {
        device_joined_.reset();
        device_joined_ = make_device_rows(device_, n * sizeof(float));
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
        const float* from = rows_ + int64_t{chunk} * n * n_vocab();
        if (device_ < 0) {
            std::copy_n(from, n * n_vocab(), joined + to * n_vocab());
        } else {
            device_joined_->copy_from(static_cast<size_t>(to * n_vocab()) * sizeof(float), from,
                                      static_cast<size_t>(n * n_vocab()) * sizeof(float));
        }
    }
}

void ModelSource::bring_to_host() {
    if (device_ < 0) return;
    copy_.resize(static_cast<size_t>(n_rows_ * n_vocab()));
    copy_to_host(copy_.data(), rows_, copy_.size() * sizeof(float));
    rows_ = copy_.data();
    device_ = -1;
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
    rows_ = device_ < 0 ? joined_.data() : device_joined_->data();
    n_rows_ = step.n_outputs();
}

}  // namespace apex
