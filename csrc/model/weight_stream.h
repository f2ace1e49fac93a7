// Weights that pass through a few places of the memory a model computes in, instead of lying there.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/gguf_file.h"
#include "ggml-cpp.h"

namespace apex {

struct StreamedWeight {
    ggml_tensor* tensor = nullptr;  // of the model
    std::string name;               // in the file
};

// Threads read the next weights from the file and copy them to free places while the model computes
// with those before: a pass over all of them costs the longer of the two. Places are as large as
// the largest weight. Weights are expected in their order, and after the last one the first again;
// in another order they come too, only later.
//
// As long as it lives, the model's tensors point to the places: to llama.cpp they are weights that
// lie there. fetch and give_back are for one thread at a time, the one that computes.
class WeightStream {
  public:
    // place: the kind of memory the places are made of. Throws ModelError, GgufError, DeviceError.
    WeightStream(const std::string& path, const std::vector<StreamedWeight>& weights,
                 ggml_backend_buffer_type_t place, int n_places, int n_threads);
    ~WeightStream();
    WeightStream(const WeightStream&) = delete;
    WeightStream& operator=(const WeightStream&) = delete;

    bool has(const ggml_tensor* tensor) const { return index_.count(tensor) > 0; }

    // Returns when the weight's values are where its tensor points. Throws GgufError where the file
    // cannot be read, DeviceError.
    void fetch(const ggml_tensor* tensor);

    // The weight was computed with: its place is the next one's.
    void give_back(const ggml_tensor* tensor);

    int n_places() const { return static_cast<int>(places_.size()); }

  private:
    static constexpr size_t kNone = SIZE_MAX;
    enum class State { away, coming, there };

    struct Weight {
        ggml_tensor* tensor = nullptr;
        ggml_tensor was{};
        const MappedFile* file = nullptr;
        uint64_t offset = 0;
        size_t n_bytes = 0;
        size_t n_zeros = 0;  // behind them, which some kernels read
        size_t place = kNone;
        State state = State::away;
        size_t n_sent = 0;  // handed to threads
        size_t n_arrived = 0;
    };
    struct Piece {
        size_t weight = kNone;
        size_t offset = 0;
        size_t n_bytes = 0;
        size_t n_zeros = 0;
        uint8_t* to = nullptr;
    };

    void add_weight(const StreamedWeight& weight, ggml_backend_buffer_type_t place);
    void make_places(ggml_backend_buffer_type_t place, int n_places);
    void start_threads(int n_threads);
    void bring_next();
    void drop_all(std::unique_lock<std::mutex>& lock);
    bool take_piece(Piece& piece);
    void arrived(const Piece& piece);
    void work();
    void work_on_host();
    void work_on_device();
    bool wait_for_piece(Piece& piece);

    GgufFile file_;
    std::vector<Weight> weights_;
    std::unordered_map<const ggml_tensor*, size_t> index_;
    ggml_backend_buffer_ptr buffer_;
    size_t place_bytes_ = 0;
    std::vector<size_t> places_;  // the weight in each
    int device_ = -1;             // of the places

    std::mutex mutex_;
    std::condition_variable pieces_;    // there may be some
    std::condition_variable arrivals_;  // a weight is there, or none will be
    std::deque<size_t> coming_;         // weights with pieces nobody has taken
    size_t next_ = 0;                   // that will be needed, of those not on their way
    bool stop_ = false;
    std::exception_ptr error_;
    std::vector<std::thread> threads_;
};

}  // namespace apex
