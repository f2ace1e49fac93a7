#include "model/weight_upload.h"

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "core/device_memory.h"
#include "core/mapped_file.h"
#include "ggml-backend-impl.h"

namespace apex {
namespace {

constexpr size_t kSmallest = 2 * kUploadPiece;  // else there is nothing to share out

thread_local WeightUpload* current = nullptr;

// --- ggml's buffers -----------------------------------------------------------------------------

struct Original {
    ggml_backend_buffer_t (*alloc_buffer)(ggml_backend_buffer_type_t, size_t) = nullptr;
    std::atomic<void (*)(ggml_backend_buffer_t, ggml_tensor*, const void*, size_t, size_t)>
        set_tensor{nullptr};
};

// Of every GPU's buffer type; filled once, before any of them allocates.
std::map<ggml_backend_buffer_type_t, Original>& originals() {
    static std::map<ggml_backend_buffer_type_t, Original> all;
    return all;
}

void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor, const void* data, size_t offset,
                size_t n_bytes) {
    WeightUpload* const upload = WeightUpload::of_this_thread();
    void* const to = static_cast<char*>(tensor->data) + offset;
    if (upload != nullptr && upload->copy(data, n_bytes, to)) return;
    originals().at(buffer->buft).set_tensor.load()(buffer, tensor, data, offset, n_bytes);
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t n_bytes) {
    Original& original = originals().at(type);
    ggml_backend_buffer_t buffer = original.alloc_buffer(type, n_bytes);
    if (buffer == nullptr || WeightUpload::of_this_thread() == nullptr) return buffer;
    // Not every backend's addresses are CUDA's.
    if (device_of(ggml_backend_buffer_get_base(buffer)) < 0) return buffer;
    original.set_tensor = buffer->iface.set_tensor;
    buffer->iface.set_tensor = set_tensor;
    return buffer;
}

void install() {
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        if (ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_GPU) continue;
        ggml_backend_buffer_type_t type = ggml_backend_dev_buffer_type(device);
        const auto [entry, is_new] = originals().try_emplace(type);
        if (!is_new) continue;
        entry->second.alloc_buffer = type->iface.alloc_buffer;
        type->iface.alloc_buffer = alloc_buffer;
    }
}

}  // namespace

void install_weight_upload() {
    static std::once_flag once;
    std::call_once(once, install);
}

// --- a load -------------------------------------------------------------------------------------

WeightUpload::WeightUpload(std::string name, int n_threads)
    : name_(std::move(name)), n_threads_(n_threads), before_(current) {
    current = n_threads > 0 ? this : nullptr;
    if (n_threads > 0) mappings_.emplace();
}

WeightUpload::~WeightUpload() {
    current = before_;
}

WeightUpload* WeightUpload::of_this_thread() {
    return current;
}

void WeightUpload::rethrow_failure() const {
    if (error_) std::rethrow_exception(error_);
}

// Whether there are lanes to that GPU. llama.cpp loads one GPU's weights after another's.
bool WeightUpload::prepare(int device) {
    if (device != device_) {
        upload_.reset();  // its pinned memory first
        upload_ = std::make_unique<ParallelUpload>(
            n_threads_, kUploadPiece,
            [&](size_t piece_bytes) { return make_device_upload(device, piece_bytes); });
        device_ = device;
    }
    return upload_->n_lanes() > 0;
}

void WeightUpload::copy_pieces(const void* from, size_t n_bytes, void* to) {
    const MappingWatch::Bytes file = mappings_->find(from, n_bytes);
    const auto* const memory = static_cast<const uint8_t*>(from);
    const auto read = [&](size_t offset, size_t n, uint8_t* room) {
        if (file.fd < 0) {
            std::memcpy(room, memory + offset, n);
        } else {
            read_file_at(file.fd, name_, file.offset + offset, n, room);
        }
    };
    upload_->copy(read, n_bytes, to);
}

bool WeightUpload::copy(const void* from, size_t n_bytes, void* to) noexcept {
    if (error_) return true;
    if (n_bytes < kSmallest) return false;
    try {
        const int device = device_of(to);
        if (device < 0 || !prepare(device)) return false;
        copy_pieces(from, n_bytes, to);
        n_bytes_ += n_bytes;
    } catch (...) {
        error_ = std::current_exception();
    }
    return true;
}

}  // namespace apex
