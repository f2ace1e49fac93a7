#include "model/weight_stream.h"

#include <algorithm>
#include <cstring>
#include <system_error>

#include "core/device_memory.h"
#include "core/device_upload.h"
#include "core/error.h"
#include "ggml-backend.h"

namespace apex {
namespace {

constexpr size_t kReadAhead = 16 * kUploadPiece;  // of a disk

}  // namespace

WeightStream::WeightStream(const std::string& path, const std::vector<StreamedWeight>& weights,
                           ggml_backend_buffer_type_t place, int n_places, int n_threads)
    : file_(path) {
    if (weights.empty() || n_places < 1 || n_threads < 1) {
        fail<InvalidArgument>("expected weights, places and threads to stream with, found ",
                              weights.size(), ", ", n_places, ", ", n_threads);
    }
    for (const StreamedWeight& weight : weights) add_weight(weight, place);
    make_places(place, std::min<int>(n_places, static_cast<int>(weights.size())));
    start_threads(n_threads);
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Weight& weight : weights_) {
        weight.tensor->buffer = buffer_.get();
        weight.tensor->data = ggml_backend_buffer_get_base(buffer_.get());
        weight.tensor->extra = nullptr;
    }
    bring_next();
}

WeightStream::~WeightStream() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    pieces_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    for (const Weight& weight : weights_) {
        weight.tensor->buffer = weight.was.buffer;
        weight.tensor->data = weight.was.data;
        weight.tensor->extra = weight.was.extra;
    }
}

void WeightStream::add_weight(const StreamedWeight& streamed, ggml_backend_buffer_type_t place) {
    const int64_t index = file_.find_tensor(streamed.name);
    if (index < 0)
        fail<ModelError>(file_.shard_file(0).path(), ": no tensor '", streamed.name, "'");
    const ShardTensor& stored = file_.tensors()[static_cast<size_t>(index)];
    file_.tensor_data(stored);  // throws where it is not in the file
    Weight weight;
    weight.tensor = streamed.tensor;
    weight.was = *streamed.tensor;
    weight.file = &file_.shard_file(stored.shard);
    weight.offset = file_.file_offset(stored);
    weight.n_bytes = ggml_nbytes(streamed.tensor);
    weight.n_zeros = ggml_backend_buft_get_alloc_size(place, streamed.tensor) - weight.n_bytes;
    place_bytes_ = std::max(place_bytes_, weight.n_bytes + weight.n_zeros);
    index_[weight.tensor] = weights_.size();
    weights_.push_back(weight);
}

void WeightStream::make_places(ggml_backend_buffer_type_t place, int n_places) {
    const size_t alignment = ggml_backend_buft_get_alignment(place);
    place_bytes_ = (place_bytes_ + alignment - 1) / alignment * alignment;
    const size_t n_bytes = place_bytes_ * static_cast<size_t>(n_places);
    buffer_.reset(ggml_backend_buft_alloc_buffer(place, n_bytes));
    if (!buffer_) {
        fail<DeviceError>(ggml_backend_buft_name(place), " has no room for ", n_bytes,
                          " bytes of weights on their way through");
    }
    ggml_backend_buffer_set_usage(buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    device_ = device_of(ggml_backend_buffer_get_base(buffer_.get()));
    places_.assign(static_cast<size_t>(n_places), kNone);
}

void WeightStream::start_threads(int n_threads) {
    try {
        for (int i = 0; i < n_threads; ++i) threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {
        // Fewer do too.
        if (threads_.empty()) fail<ModelError>("no thread to stream with: ", error.what());
    }
}

// --- the thread that computes -------------------------------------------------------------------

// The next weights go to all free places. Under the lock.
void WeightStream::bring_next() {
    auto* base = static_cast<uint8_t*>(ggml_backend_buffer_get_base(buffer_.get()));
    for (size_t place = 0; place < places_.size(); ++place) {
        if (places_[place] != kNone || weights_[next_].state != State::away) continue;
        Weight& weight = weights_[next_];
        places_[place] = next_;
        weight.place = place;
        weight.tensor->data = base + place * place_bytes_;
        weight.state = State::coming;
        weight.n_sent = weight.n_arrived = 0;
        coming_.push_back(next_);
        next_ = (next_ + 1) % weights_.size();
    }
    pieces_.notify_all();
}

// Empties all places; what is on its way arrives first.
void WeightStream::drop_all(std::unique_lock<std::mutex>& lock) {
    for (const size_t i : coming_) {
        if (weights_[i].n_sent == 0) weights_[i].state = State::away;
    }
    coming_.erase(std::remove_if(coming_.begin(), coming_.end(),
                                 [&](size_t i) { return weights_[i].state == State::away; }),
                  coming_.end());
    arrivals_.wait(lock, [&] {
        return error_ || std::none_of(weights_.begin(), weights_.end(), [](const Weight& weight) {
                   return weight.state == State::coming;
               });
    });
    for (size_t& place : places_) {
        if (place != kNone) weights_[place].state = State::away;
        place = kNone;
    }
}

void WeightStream::fetch(const ggml_tensor* tensor) {
    const size_t i = index_.at(tensor);
    std::unique_lock<std::mutex> lock(mutex_);
    if (weights_[i].state == State::away) {
        drop_all(lock);
        next_ = i;
        bring_next();
    }
    arrivals_.wait(lock, [&] { return error_ || weights_[i].state == State::there; });
    if (error_) std::rethrow_exception(error_);
}

void WeightStream::give_back(const ggml_tensor* tensor) {
    Weight& weight = weights_[index_.at(tensor)];
    const std::lock_guard<std::mutex> lock(mutex_);
    if (weight.state != State::there) return;
    weight.state = State::away;
    places_[weight.place] = kNone;
    bring_next();
}

// --- the threads that copy ----------------------------------------------------------------------

// Under the lock.
bool WeightStream::take_piece(Piece& piece) {
    if (coming_.empty()) return false;
    const size_t i = coming_.front();
    Weight& weight = weights_[i];
    piece.weight = i;
    piece.offset = weight.n_sent;
    piece.n_bytes = std::min(kUploadPiece, weight.n_bytes - weight.n_sent);
    piece.to = static_cast<uint8_t*>(weight.tensor->data) + piece.offset;
    weight.n_sent += piece.n_bytes;
    const bool is_last = weight.n_sent == weight.n_bytes;
    piece.n_zeros = is_last ? weight.n_zeros : 0;
    if (is_last) coming_.pop_front();
    return true;
}

bool WeightStream::wait_for_piece(Piece& piece) {
    std::unique_lock<std::mutex> lock(mutex_);
    pieces_.wait(lock, [&] { return stop_ || error_ || !coming_.empty(); });
    return !stop_ && !error_ && take_piece(piece);
}

void WeightStream::arrived(const Piece& piece) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Weight& weight = weights_[piece.weight];
    weight.n_arrived += piece.n_bytes;
    if (weight.n_arrived < weight.n_bytes) return;
    weight.state = State::there;
    arrivals_.notify_all();
}

void WeightStream::work() {
    try {
        if (device_ < 0) {
            work_on_host();
        } else {
            work_on_device();
        }
    } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
        pieces_.notify_all();
        arrivals_.notify_all();
    }
}

void WeightStream::work_on_host() {
    Piece piece;
    while (wait_for_piece(piece)) {
        const Weight& weight = weights_[piece.weight];
        weight.file->read_at(weight.offset + piece.offset, piece.n_bytes, piece.to);
        std::memset(piece.to + piece.n_bytes, 0, piece.n_zeros);
        arrived(piece);
    }
}

void WeightStream::work_on_device() {
    const std::unique_ptr<DeviceUpload> upload = make_device_upload(device_, kUploadPiece);
    std::deque<Piece> sent;  // not known to have arrived: at most two
    const auto settle = [&](size_t n_left) {
        for (; sent.size() > n_left; sent.pop_front()) arrived(sent.front());
    };
    Piece piece;
    for (;;) {
        bool has_piece = false;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            has_piece = !stop_ && !error_ && take_piece(piece);
        }
        if (!has_piece) {
            upload->wait();
            settle(0);
            if (!wait_for_piece(piece)) return;
        }
        uint8_t* room = upload->room();
        settle(1);
        const Weight& weight = weights_[piece.weight];
        weight.file->will_need(weight.offset + piece.offset + piece.n_bytes, kReadAhead);
        weight.file->read_at(weight.offset + piece.offset, piece.n_bytes, room);
        upload->send(piece.to, piece.n_bytes, piece.n_zeros);
        sent.push_back(piece);
    }
}

}  // namespace apex
