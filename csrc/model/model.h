// A loaded model: weights and vocabulary, checked before llama.cpp sees the file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "llama-cpp.h"
#include "llama.h"
#include "model/stop_flag.h"
#include "model/trial_load.h"

namespace apex {

// Once per process: log sink, abort hook, backends.
void initialize_llama();

// What llama.cpp and ggml logged as errors since the last drain, as one sentence.
std::string last_errors();

class NarrowHead;
class WeightStream;

enum class SplitMode { none, layer, row };

// Automatic: on wherever the device of a layer can (llama.cpp's default).
enum class FlashAttention { automatic, off, on };

struct ModelOptions {
    int n_gpu_layers = 0;              // -1: all; 0 keeps everything on the CPU
    std::vector<std::string> devices;  // ggml device names ("CUDA0"); empty: all GPUs
    int main_gpu = 0;
    SplitMode split_mode = SplitMode::layer;
    std::vector<float> tensor_split;  // share of each device; empty: by free memory
    bool use_mmap = true;
    uint64_t read_ahead_bytes = 0;  // of a file that is to be mapped, if no more are not in memory
    bool repack = true;             // let ggml rearrange weights for this CPU: faster, not readable
    bool load_mtp = false;          // the multi-token-prediction block as well
    bool no_alloc = false;          // no weights: memory is added up and not taken
    bool vocab_only = false;        // tokenizer only: no context can be made
    FlashAttention flash_attention = FlashAttention::automatic;  // of every context
    int expert_used_count = 0;  // experts a token goes to; 0: as the file says
    int n_cpu_moe = 0;          // layers from the first whose experts stay on the host
    bool headless = false;      // logits mean nothing, hidden states do: model/narrow_head.h
    // Layers whose experts are in memory only while they are computed: model/weight_stream.h.
    std::vector<int> streamed_layers;
    int n_places = 4;          // for streamed tensors
    int n_stream_threads = 1;  // that bring them
    int n_upload_threads =
        0;  // that copy weights to GPUs: model/weight_upload.h; 0: llama.cpp's one
};

class Model {
  public:
    ~Model();
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    // Throws GgufError where the file is damaged or holds no data, ModelError with llama.cpp's
    // reason where it refuses it, DeviceError for an unknown GPU or one without room for all
    // layers, Cancelled.
    static std::shared_ptr<Model> load(const std::string& path, const ModelOptions& options,
                                       std::shared_ptr<const StopFlag> stop = nullptr);

    const std::string& path() const { return path_; }
    const ModelOptions& options() const { return options_; }
    const ModelTraits& traits() const { return traits_; }
    llama_model* get() const { return model_.get(); }
    const llama_vocab* vocab() const { return llama_model_get_vocab(model_.get()); }

    int32_t n_vocab() const { return llama_vocab_n_tokens(vocab()); }
    int32_t n_ctx_train() const { return llama_model_n_ctx_train(model_.get()); }
    int32_t n_embd() const { return llama_model_n_embd(model_.get()); }
    bool is_recurrent() const { return llama_model_is_recurrent(model_.get()); }
    bool is_hybrid() const { return llama_model_is_hybrid(model_.get()); }
    bool has_encoder() const { return llama_model_has_encoder(model_.get()); }
    bool on_gpu() const { return options_.n_gpu_layers != 0; }
    ggml_backend_dev_t gpu() const;  // the first one it is on; null: it is on none
    std::string description() const;
    // Bytes of weights that went to GPUs by threads of ours while it was loaded.
    uint64_t n_uploaded_bytes() const { return n_uploaded_bytes_; }
    WeightStream* stream() const { return stream_.get(); }  // null: nothing is streamed

  private:
    Model(std::string path, ModelOptions options, ModelTraits traits, llama_model_ptr model);
    ggml_backend_buffer_type_t memory() const;  // of what is placed beside llama.cpp's weights
    void narrow_head();
    void start_stream();
    void finish();  // what is not llama.cpp's

    std::string path_;
    ModelOptions options_;
    ModelTraits traits_;
    llama_model_ptr model_;
    uint64_t n_uploaded_bytes_ = 0;
    std::unique_ptr<NarrowHead> head_;
    std::unique_ptr<WeightStream> stream_;
};

}  // namespace apex
