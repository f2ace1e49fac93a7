#include "model/model.h"

#include <algorithm>
#include <mutex>
#include <numeric>

#include "core/abort_guard.h"
#include "core/device.h"
#include "core/error.h"
#include "core/log.h"
#include "ggml-backend.h"
#include "llama-ext.h"
#include "model/model_check.h"
#include "model/model_params.h"
#include "model/model_weights.h"
#include "model/narrow_head.h"
#include "model/own_products.h"
#include "model/read_ahead.h"
#include "model/weight_stream.h"
#include "model/weight_upload.h"

namespace apex {
namespace {

llama_split_mode to_llama(SplitMode mode) {
    switch (mode) {
        case SplitMode::none:
            return LLAMA_SPLIT_MODE_NONE;
        case SplitMode::row:
            return LLAMA_SPLIT_MODE_ROW;
        case SplitMode::layer:
            break;
    }
    return LLAMA_SPLIT_MODE_LAYER;
}

std::vector<ggml_backend_dev_t> all_gpus() {
    std::vector<ggml_backend_dev_t> devices;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        if (ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU)
            devices.push_back(device);
    }
    return devices;
}

std::string gpu_names() {
    std::string names;
    for (ggml_backend_dev_t device : all_gpus()) {
        names += (names.empty() ? "" : ", ") + std::string(ggml_backend_dev_name(device));
    }
    return names;
}

// NULL-terminated, as llama.cpp wants it; empty where all GPUs may be used.
std::vector<ggml_backend_dev_t> find_devices(const std::vector<std::string>& names) {
    std::vector<ggml_backend_dev_t> devices;
    for (const std::string& name : names) {
        ggml_backend_dev_t device = ggml_backend_dev_by_name(name.c_str());
        if (device == nullptr) {
            const std::string known = gpu_names();
            fail<DeviceError>("device '", name, "' is not here; ",
                              known.empty() ? "this build or machine has no GPU" : "there are ",
                              known);
        }
        devices.push_back(device);
    }
    if (!devices.empty()) devices.push_back(nullptr);
    return devices;
}

void check_gpu_options(const ModelOptions& options) {
    if (options.n_gpu_layers != 0 && gpu_names().empty()) {
        fail<DeviceError>("`n_gpu_layers` is ", options.n_gpu_layers,
                          ", but this build or machine has no GPU; leave it at 0");
    }
    if (options.tensor_split.size() > llama_max_devices()) {
        fail<DeviceError>("tensor_split: expected at most ", llama_max_devices(), " shares, found ",
                          options.tensor_split.size());
    }
}

// Where all layers go to GPUs, the weights must fit: llama.cpp would find out minutes later.
void check_device_memory(const std::string& path, const ModelFile& file,
                         const ModelOptions& options,
                         const std::vector<ggml_backend_dev_t>& chosen) {
    if (options.no_alloc || options.n_cpu_moe > 0 || options.headless) return;
    const bool all_layers =
        options.n_gpu_layers < 0 || static_cast<uint64_t>(options.n_gpu_layers) > file.n_blocks;
    if (!all_layers) return;
    std::vector<ggml_backend_dev_t> devices = chosen;
    if (devices.empty()) devices = all_gpus();
    uint64_t free_bytes = 0;
    std::string found;
    for (ggml_backend_dev_t device : devices) {
        if (device == nullptr) continue;
        size_t free = 0, total = 0;
        ggml_backend_dev_memory(device, &free, &total);
        free_bytes += free;
        found += (found.empty() ? "" : ", ") + std::string(ggml_backend_dev_name(device)) + " " +
                 std::to_string(free) + " of " + std::to_string(total);
    }
    if (file.layer_bytes <= free_bytes) return;
    fail<DeviceError>(path, ": its layers take ", file.layer_bytes,
                      " bytes, more than is free on the GPU: ", found,
                      "; put fewer layers there, or end what else uses it");
}

// What ends a load between two weights.
struct LoadEnds {
    const StopFlag* stop;
    const WeightUpload* upload;
};

bool go_on(float, void* ends) {
    const auto& [stop, upload] = *static_cast<const LoadEnds*>(ends);
    return !upload->has_failed() && (stop == nullptr || !stop->is_set());
}

// The layers whose experts stay on the host.
std::vector<int> host_layers(const ModelOptions& options, uint64_t n_blocks) {
    std::vector<int> layers(std::min<size_t>(static_cast<size_t>(options.n_cpu_moe), n_blocks));
    std::iota(layers.begin(), layers.end(), 0);
    layers.insert(layers.end(), options.streamed_layers.begin(), options.streamed_layers.end());
    return layers;
}

void check_stream_options(const ModelOptions& options, uint64_t n_blocks) {
    for (const int layer : options.streamed_layers) {
        if (layer >= 0 && static_cast<uint64_t>(layer) < n_blocks) continue;
        fail<InvalidArgument>("streamed_layers: expected layers from 0 to ", n_blocks - 1,
                              ", found ", layer);
    }
    if (options.streamed_layers.empty() || options.use_mmap) return;
    fail<InvalidArgument>("streamed layers need use_mmap: their weights stay in the file");
}

// Brings what llama.cpp is going to map. More than memory holds would push itself out again.
void read_ahead(const ModelFile& file, const ModelOptions& options, const StopFlag* stop) {
    if (!options.use_mmap || options.no_alloc || options.vocab_only) return;
    const ReadAhead ahead(file.shards);
    const uint64_t n_absent = ahead.n_absent_bytes();
    if (n_absent > 0 && n_absent <= options.read_ahead_bytes) ahead.run(stop);
}

// "llama_model_load: error loading model: X" without the function's name.
std::string without_function(const std::string& line) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos || line.find('_') > colon) return line;
    const bool is_name = line.find_first_of(" '/.") > colon;
    return is_name ? line.substr(colon + 2) : line;
}

}  // namespace

void initialize_llama() {
    static std::once_flag once;
    std::call_once(once, [] {
        install_abort_hook();
        prepare_devices();
        llama_log_set(log_sink, nullptr);
        llama_backend_init();
    });
}

std::string last_errors() {
    std::string text;
    for (const LogLine& line : drain_log()) {
        if (line.level != GGML_LOG_LEVEL_ERROR) continue;
        const std::string reason = without_function(line.text);
        if (reason == "failed to load model") continue;  // what is said anyway
        text += (text.empty() ? "" : "; ") + reason;
    }
    return text.empty() ? "no reason was logged" : text;
}

namespace {

llama_model_ptr load_weights(const std::string& path, const std::string& first_shard,
                             llama_model_params params, const StopFlag* stop,
                             WeightUpload& upload) {
    LoadEnds ends{stop, &upload};
    params.progress_callback = go_on;
    params.progress_callback_user_data = &ends;
    drain_log();
    llama_model_ptr model;
    try {
        guarded([&] { model.reset(llama_model_load_from_file(first_shard.c_str(), params)); });
    } catch (const GgmlAbort& abort) {
        fail<ModelError>(path, ": llama.cpp cannot load it: ", abort.what());
    }
    upload.rethrow_failure();
    if (!model && stop != nullptr && stop->is_set()) {
        fail<Cancelled>("loading ", path, " was stopped");
    }
    if (!model) fail<ModelError>(path, ": llama.cpp cannot load it: ", last_errors());
    return model;
}

}  // namespace

Model::Model(std::string path, ModelOptions options, ModelTraits traits, llama_model_ptr model)
    : path_(std::move(path)),
      options_(std::move(options)),
      traits_(traits),
      model_(std::move(model)) {}

std::shared_ptr<Model> Model::load(const std::string& path, const ModelOptions& options,
                                   std::shared_ptr<const StopFlag> stop) {
    initialize_llama();
    install_own_products();
    const ModelFile file = check_model_file(path, options.expert_used_count);
    check_gpu_options(options);
    if (options.n_gpu_layers != 0) install_weight_upload();
    std::vector<ggml_backend_dev_t> devices = find_devices(options.devices);
    check_device_memory(path, file, options, devices);
    const ModelTraits traits =
        trial_load(file.shards.front(), file.architecture,
                   {options.vocab_only, options.load_mtp, options.expert_used_count}, stop);
    const auto overrides = expert_overrides(file.architecture, options.expert_used_count);
    check_stream_options(options, file.n_blocks);
    if (options.read_ahead_bytes > 0) read_ahead(file, options, stop.get());
    const HostWeights on_host =
        weights_on_host(host_layers(options, file.n_blocks), options.headless && !options.no_alloc);
    std::vector<float> split = options.tensor_split;
    split.resize(llama_max_devices());

    llama_model_params params = llama_model_default_params();
    const bool on_cpu = options.n_gpu_layers == 0;
    // With no layer on a GPU llama.cpp would still send large products there.
    if (on_cpu) devices = {nullptr};
    if (!devices.empty()) params.devices = devices.data();
    params.n_gpu_layers = options.n_gpu_layers;
    params.main_gpu = options.main_gpu;
    params.split_mode = on_cpu ? LLAMA_SPLIT_MODE_LAYER : to_llama(options.split_mode);
    if (!options.tensor_split.empty()) params.tensor_split = split.data();
    params.no_alloc = options.no_alloc;
    params.load_mode =
        options.use_mmap && !options.no_alloc ? LLAMA_LOAD_MODE_AUTO : LLAMA_LOAD_MODE_NONE;
    params.use_extra_bufts = options.repack && options.streamed_layers.empty();
    params.load_mtp = options.load_mtp;
    params.vocab_only = options.vocab_only;
    if (!overrides.empty()) params.kv_overrides = overrides.data();
    if (!on_host.overrides.empty()) params.tensor_buft_overrides = on_host.overrides.data();

    WeightUpload upload(path, on_cpu || options.no_alloc ? 0 : options.n_upload_threads);
    llama_model_ptr model = load_weights(path, file.shards.front(), params, stop.get(), upload);
    std::shared_ptr<Model> made(new Model(path, options, traits, std::move(model)));
    made->n_uploaded_bytes_ = upload.n_bytes();
    made->finish();
    return made;
}

Model::~Model() = default;

ggml_backend_buffer_type_t Model::memory() const {
    ggml_backend_dev_t device = gpu();
    return device == nullptr ? ggml_backend_cpu_buffer_type()
                             : ggml_backend_dev_buffer_type(device);
}

void Model::finish() {
    if (options_.headless) narrow_head();
    if (!options_.streamed_layers.empty() && !options_.no_alloc) start_stream();
}

void Model::narrow_head() {
    head_ = std::make_unique<NarrowHead>(get(), options_.no_alloc ? nullptr : memory());
}

void Model::start_stream() {
    stream_ =
        std::make_unique<WeightStream>(path_, expert_weights(*this, options_.streamed_layers),
                                       memory(), options_.n_places, options_.n_stream_threads);
}

ggml_backend_dev_t Model::gpu() const {
    for (int i = 0; on_gpu() && i < llama_model_n_devices(get()); ++i) {
        ggml_backend_dev_t device = llama_model_get_device(get(), i);
        if (ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU) return device;
    }
    return nullptr;
}

std::string Model::description() const {
    char text[256] = {};
    llama_model_desc(model_.get(), text, sizeof(text));
    return text;
}

}  // namespace apex
