#include "bind/engine.h"

#include <algorithm>

#include "bind/text.h"
#include "bind/types.h"
#include "core/error.h"
#include "core/gguf_file.h"
#include "model/context.h"
#include "model/generate.h"
#include "model/model_weights.h"
#include "model/read_ahead.h"
#include "model/vocabulary.h"

namespace apex::bind {

namespace {

SplitMode to_split_mode(const std::string& name) {
    if (name == "none") return SplitMode::none;
    if (name == "layer") return SplitMode::layer;
    if (name == "row") return SplitMode::row;
    fail<InvalidArgument>("split_mode: expected none, layer or row, found '", name, "'");
}

std::shared_ptr<Model> load(const std::string& path, int n_gpu_layers,
                            std::vector<std::string> devices, int main_gpu,
                            const std::string& split_mode, std::vector<float> tensor_split,
                            bool use_mmap, bool repack, bool load_mtp, bool no_alloc,
                            bool vocab_only, const std::string& flash_attn, int expert_used_count,
                            int n_cpu_moe, bool headless, std::vector<int> streamed_layers,
                            int n_places, int n_stream_threads, int n_upload_threads,
                            uint64_t read_ahead_bytes, std::shared_ptr<StopFlag> stop) {
    ModelOptions options;
    options.n_gpu_layers = n_gpu_layers;
    options.devices = std::move(devices);
    options.main_gpu = main_gpu;
    options.split_mode = to_split_mode(split_mode);
    options.tensor_split = std::move(tensor_split);
    options.use_mmap = use_mmap;
    options.repack = repack;
    options.load_mtp = load_mtp;
    options.no_alloc = no_alloc;
    options.vocab_only = vocab_only;
    options.flash_attention = to_flash_attention(flash_attn);
    options.expert_used_count = expert_used_count;
    options.n_cpu_moe = n_cpu_moe;
    options.headless = headless;
    options.streamed_layers = std::move(streamed_layers);
    options.n_places = n_places;
    options.n_stream_threads = n_stream_threads;
    options.n_upload_threads = n_upload_threads;
    options.read_ahead_bytes = read_ahead_bytes;
    const py::gil_scoped_release unlocked;
    return Model::load(path, options, std::move(stop));
}

TokenArray tokenize_text(const Model& model, const std::string& text, bool add_special,
                         bool parse_special) {
    std::vector<llama_token> tokens;
    {
        const py::gil_scoped_release unlocked;
        tokens = tokenize(model.vocab(), text, add_special, parse_special);
    }
    return to_array(tokens);
}

TokenArray generate_tokens(std::shared_ptr<Model> model, const TokenArray& prompt, int n_predict,
                           float temperature, int top_k, float top_p, uint32_t seed, int n_threads,
                           std::shared_ptr<StopFlag> stop) {
    const std::vector<llama_token> prompt_tokens = to_tokens(prompt);
    const SamplingOptions sampling{n_predict, temperature, top_k, top_p, seed};
    std::vector<llama_token> tokens;
    {
        const py::gil_scoped_release unlocked;
        ContextOptions options;
        options.n_ctx = static_cast<uint32_t>(prompt_tokens.size()) +
                        static_cast<uint32_t>(std::max(n_predict, 0));
        Context context(std::move(model), std::make_shared<ThreadPool>(n_threads), options, nullptr,
                        std::move(stop));
        tokens = generate(context, prompt_tokens, sampling);
    }
    return to_array(tokens);
}

py::object chat_template(const Model& model) {
    const char* text = llama_model_chat_template(model.get(), nullptr);
    return text == nullptr ? py::object(py::none()) : readable_text(text);
}

void register_vocabulary(py::class_<Model, std::shared_ptr<Model>>& model) {
    model
        .def("tokenize", &tokenize_text, "text"_a, py::kw_only(), "add_special"_a,
             "parse_special"_a)
        .def(
            "detokenize",
            [](const Model& self, const TokenArray& tokens) {
                return py::bytes(detokenize(self.vocab(), to_tokens(tokens)));
            },
            "tokens"_a.noconvert())
        .def("vocabulary_bytes",
             [](const Model& self) { return py::bytes(vocabulary_bytes(self.vocab())); })
        .def_property_readonly("end_tokens",
                               [](const Model& self) { return end_tokens(self.vocab()); })
        .def_property_readonly("bos_token",
                               [](const Model& self) { return llama_vocab_bos(self.vocab()); })
        .def_property_readonly("eos_token",
                               [](const Model& self) { return llama_vocab_eos(self.vocab()); })
        .def_property_readonly(
            "add_bos", [](const Model& self) { return llama_vocab_get_add_bos(self.vocab()); })
        .def_property_readonly(
            "add_eos", [](const Model& self) { return llama_vocab_get_add_eos(self.vocab()); })
        .def_property_readonly("n_vocab", &Model::n_vocab)
        .def_property_readonly("chat_template", &chat_template);
}

}  // namespace

FlashAttention to_flash_attention(const std::string& name) {
    if (name == "auto") return FlashAttention::automatic;
    if (name == "on") return FlashAttention::on;
    if (name == "off") return FlashAttention::off;
    fail<InvalidArgument>("flash_attn: expected auto, on or off, found '", name, "'");
}

void register_read_ahead(py::module_& module) {
    py::class_<ReadAhead>(module, "ReadAhead", "A model's files, brought into the page cache.",
                          py::release_gil_before_calling_cpp_dtor())
        .def(py::init([](const std::string& path) {
                 return std::make_unique<ReadAhead>(GgufFile(path).shard_paths());
             }),
             "path"_a, py::call_guard<py::gil_scoped_release>())
        .def(
            "run",
            [](const ReadAhead& self, std::shared_ptr<StopFlag> stop) { self.run(stop.get()); },
            "stop"_a = std::shared_ptr<StopFlag>{}, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("n_bytes", &ReadAhead::n_bytes)
        .def_property_readonly("n_absent_bytes", &ReadAhead::n_absent_bytes);
}

void register_engine(py::module_& module) {
    py::class_<StopFlag, std::shared_ptr<StopFlag>>(module, "StopFlag",
                                                    "Stops a computation from another thread.")
        .def(py::init<>())
        .def("set", &StopFlag::set)
        .def_property_readonly("is_set", &StopFlag::is_set);

    py::class_<Model, std::shared_ptr<Model>> model(module, "Model", "A model llama.cpp loaded.",
                                                    py::release_gil_before_calling_cpp_dtor());
    model
        .def(py::init(&load), "path"_a, py::kw_only(), "n_gpu_layers"_a = 0,
             "devices"_a = std::vector<std::string>{}, "main_gpu"_a = 0, "split_mode"_a = "layer",
             "tensor_split"_a = std::vector<float>{}, "use_mmap"_a = true, "repack"_a = true,
             "load_mtp"_a = false, "no_alloc"_a = false, "vocab_only"_a = false,
             "flash_attn"_a = "auto", "expert_used_count"_a = 0, "n_cpu_moe"_a = 0,
             "headless"_a = false, "streamed_layers"_a = std::vector<int>{}, "n_places"_a = 4,
             "n_stream_threads"_a = 1, "n_upload_threads"_a = 0, "read_ahead_bytes"_a = uint64_t{0},
             "stop"_a = std::shared_ptr<StopFlag>{})
        .def("generate", &generate_tokens, "prompt"_a.noconvert(), py::kw_only(), "n_predict"_a,
             "temperature"_a, "top_k"_a, "top_p"_a, "seed"_a, "n_threads"_a,
             "stop"_a = std::shared_ptr<StopFlag>{})
        .def_property_readonly("path", &Model::path)
        .def_property_readonly("on_gpu", &Model::on_gpu)
        .def_property_readonly("load_mtp",
                               [](const Model& self) { return self.options().load_mtp; })
        .def_property_readonly("expert_used_count",
                               [](const Model& self) { return self.options().expert_used_count; })
        .def_property_readonly("n_layers",
                               [](const Model& self) { return llama_model_n_layer(self.get()); })
        .def_property_readonly("n_gpu_layers",
                               [](const Model& self) { return self.options().n_gpu_layers; })
        .def("weight_bytes", &weight_bytes)
        .def_property_readonly("n_uploaded_bytes", &Model::n_uploaded_bytes)
        .def_property_readonly("headless",
                               [](const Model& self) { return self.options().headless; })
        .def_property_readonly("n_ctx_train", &Model::n_ctx_train)
        .def_property_readonly("n_embd", &Model::n_embd)
        .def_property_readonly("is_recurrent", &Model::is_recurrent)
        .def_property_readonly("is_hybrid", &Model::is_hybrid)
        .def_property_readonly("has_encoder", &Model::has_encoder)
        .def_property_readonly(
            "description", [](const Model& model) { return readable_text(model.description()); })
        .def_property_readonly("n_parameters",
                               [](const Model& self) { return llama_model_n_params(self.get()); });
    register_vocabulary(model);
    register_memory(model);
    register_read_ahead(module);
}

}  // namespace apex::bind
