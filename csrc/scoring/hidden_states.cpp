#include "scoring/hidden_states.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/device_memory.h"
#include "core/error.h"
#include "ggml-backend.h"

namespace apex {

// --- memory -------------------------------------------------------------------------------------

namespace {

int open_nameless(const std::string& folder, size_t size) {
    std::string name = folder + "/apex-hidden-XXXXXX";
    const int descriptor = mkostemp(name.data(), O_CLOEXEC);
    if (descriptor < 0) {
        fail<OutputError>("cannot write in ", folder, ": ", std::strerror(errno));
    }
    unlink(name.c_str());
    // Not ftruncate: a disk that is full must say so here and not by a signal later.
    const int error = posix_fallocate(descriptor, 0, static_cast<off_t>(size));
    if (error == 0) return descriptor;
    close(descriptor);
    fail<OutputError>(folder, " has no room for ", size,
                      " bytes of hidden states: ", std::strerror(error));
}

// Tokens begin to end - 1 of a layer.
void append(const LayerChoices& from, int64_t begin, int64_t end, LayerChoices& to) {
    to.n_used = from.n_used;
    to.experts.insert(to.experts.end(), from.experts.begin() + begin * from.n_used,
                      from.experts.begin() + end * from.n_used);
}

}  // namespace

RowStore::RowStore(int64_t n_rows, int64_t n_per_row, const std::string& folder)
    : n_per_row_(n_per_row), size_(static_cast<size_t>(n_rows * n_per_row) * sizeof(float)) {
    const int descriptor = folder.empty() ? -1 : open_nameless(folder, size_);
    const int flags = folder.empty() ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void* data = mmap(nullptr, size_, PROT_READ | PROT_WRITE, flags, descriptor, 0);
    if (descriptor >= 0) close(descriptor);
    if (data == MAP_FAILED) {
        fail<ModelError>("no memory for ", size_,
                         " bytes of hidden states: ", std::strerror(errno));
    }
    data_ = static_cast<float*>(data);
}

RowStore::~RowStore() {
    munmap(data_, size_);
}

HiddenStates::HiddenStates(const Model& model, const ChunkShape& shape, int32_t n_chunks,
                           const std::string& folder)
    : path_(model.path()),
      shape_(shape),
      gpu_(model.gpu()),
      rows_(int64_t{n_chunks} * shape.n_scored(), model.n_embd(), folder) {}

void HiddenStates::keep_head(const HeadRecipe& recipe) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!head_) head_ = std::make_unique<const LmHead>(path_, recipe);
}

const LmHead& HiddenStates::head() const {
    if (!head_) fail<InvalidArgument>("hidden states of a pass that has not run");
    return *head_;
}

void HiddenStates::keep_routes(const Step& step, const RouterChoices& routes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (int32_t chunk = 0; chunk < step.n_chunks; ++chunk) {
        ChunkRoutes& kept = routes_[{step.first_chunk + chunk, step.begin}];
        kept.step = step;
        for (const auto& [layer, all] : routes) {
            const int64_t n = all.n_tokens() / step.n_chunks;  // chunk after chunk
            append(all, chunk * n, (chunk + 1) * n, kept.choices[layer]);
        }
    }
}

// What the step's chunks have of its positions, chunk after chunk.
RouterChoices HiddenStates::routes(const Step& step) const {
    RouterChoices found;
    for (int32_t chunk = step.first_chunk; chunk < step.first_chunk + step.n_chunks; ++chunk) {
        auto part = routes_.upper_bound({chunk, step.begin});
        if (part == routes_.begin()) fail<InvalidArgument>("no routes of chunk ", chunk);
        const ChunkRoutes& kept = (--part)->second;
        if (part->first.first != chunk || kept.step.end < step.end) {
            fail<InvalidArgument>("a step of positions ", step.begin, " to ", step.end,
                                  " of chunk ", chunk, " was not computed as one");
        }
        for (const auto& [layer, all] : kept.choices) {
            const bool whole = all.n_tokens() == kept.step.end - kept.step.begin;
            const int32_t first = whole ? kept.step.begin : kept.step.first_output;
            append(all, (whole ? step.begin : step.first_output) - first,
                   (whole ? step.end : step.end_output) - first, found[layer]);
        }
    }
    return found;
}

// --- first pass ---------------------------------------------------------------------------------

HiddenRecorder::HiddenRecorder(std::shared_ptr<Model> model, std::shared_ptr<ThreadPool> pool,
                               std::shared_ptr<HiddenStates> states, ChunkTokens tokens,
                               const ModelSourceOptions& options, bool with_logits,
                               std::shared_ptr<const StopFlag> stop)
    : states_(std::move(states)),
      tokens_(std::move(tokens)),
      with_routes_(options.with_routes),
      with_logits_(with_logits),
      rows_(model->n_vocab()),
      context_(std::move(model), std::move(pool), context_options(states_->shape(), options), this,
               std::move(stop)) {
    check_scorable(context_.model(), states_->shape());
}

bool HiddenRecorder::wants(const ggml_tensor* node) {
    return std::strcmp(node->name, kHiddenName) == 0 ||
           ((with_logits_ || !has_recipe_) && std::strcmp(node->name, kLogitsName) == 0) ||
           (with_routes_ && RouterHook::wants(node));
}

bool HiddenRecorder::observe(ggml_tensor* node) {
    if (std::strcmp(node->name, kHiddenName) == 0) {
        keep_rows(node);
        // Later graphs end here: the head is not computed.
        return with_logits_ || !has_recipe_;
    }
    if (std::strcmp(node->name, kLogitsName) == 0) {
        if (!has_recipe_) states_->keep_head(read_recipe(node));
        has_recipe_ = true;
        if (with_logits_) rows_.take(node, context_.model().path());
        return true;
    }
    routes_.observe(node);
    return true;
}

void HiddenRecorder::keep_rows(const ggml_tensor* node) {
    const int64_t n_embd = states_->rows().n_per_row();
    if (node->type != GGML_TYPE_F32 || node->ne[0] != n_embd || !ggml_is_contiguous(node) ||
        ggml_nrows(node) != step_.n_outputs()) {
        fail<ModelError>(context_.model().path(), ": expected ", step_.n_outputs(), " rows of ",
                         n_embd, " floats before the head, found ", ggml_nrows(node), " of ",
                         node->ne[0], "; leave two-pass out");
    }
    // A chunk's positions lie one after the other, here and there.
    const int32_t n = step_.n_outputs_per_chunk();
    const size_t bytes = static_cast<size_t>(n * n_embd) * sizeof(float);
    for (int32_t chunk = 0; chunk < step_.n_chunks && n > 0; ++chunk) {
        const int64_t index = scored_place(states_->shape(), step_, chunk * n).index;
        ggml_backend_tensor_get(node, states_->rows().row(index),
                                static_cast<size_t>(chunk) * bytes, bytes);
    }
}

void HiddenRecorder::compute(const Step& step) {
    if (step.begin == 0) context_.clear_memory();
    routes_.clear();
    step_ = step;
    fill_batch(batch_, context_.model().vocab(), states_->shape(), *tokens_, step, step.begin,
               step.end);
    context_.decode(batch_);
    if (with_routes_) states_->keep_routes(step, routes_.choices());
}

// --- second pass --------------------------------------------------------------------------------

HiddenSource::HiddenSource(std::shared_ptr<const HiddenStates> states,
                           std::shared_ptr<ThreadPool> pool, bool with_routes,
                           ggml_backend_dev_t device)
    : states_(std::move(states)),
      pool_(std::move(pool)),
      with_routes_(with_routes),
      rows_(states_->head().n_vocab()) {
    if (device != nullptr) device_head_ = DeviceHead::make(states_->head(), device);
}

void HiddenSource::compute(const Step& step) {
    if (with_routes_) routes_ = states_->routes(step);
    const int32_t n = step.n_outputs();
    if (n == 0) return;
    const LmHead& head = states_->head();
    const int64_t n_embd = head.n_embd();
    hidden_.resize(static_cast<size_t>(n * n_embd));
    for (int32_t i = 0; i < n; ++i) {
        const int64_t index = scored_place(states_->shape(), step, i).index;
        std::copy_n(states_->rows().row(index), n_embd, hidden_.data() + i * n_embd);
    }
    if (device_head_) {
        const float* rows = device_head_->compute(hidden_.data(), n);
        rows_.set(rows, n, device_of(rows));
    } else {
        logits_.resize(static_cast<size_t>(n * n_vocab()));
        head.compute(hidden_.data(), n, logits_.data(), *pool_);
        rows_.set(logits_.data(), n, -1);
    }
}

}  // namespace apex
