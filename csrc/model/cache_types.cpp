#include "model/cache_types.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "cache_build.h"
#include "core/checks.h"
#include "core/error.h"
#include "ggml-backend.h"
#include "llama-ext.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-model.h"
#include "turbo/turbo.h"

namespace apex {
namespace {

// An explicit instantiation may name a private member; the friend it defines hands it out.
template <class Tag, typename Tag::Member kMember>
struct Expose {
    friend typename Tag::Member member(Tag) { return kMember; }
};
struct RotatesKeys {
    using Member = bool llama_kv_cache::*;
    friend Member member(RotatesKeys);
};
struct RotatesValues {
    using Member = bool llama_kv_cache::*;
    friend Member member(RotatesValues);
};
struct HeadSize {  // 0: no layer has its keys in this cache
    using Member = int32_t llama_kv_cache::*;
    friend Member member(HeadSize);
};
template struct Expose<RotatesKeys, &llama_kv_cache::attn_rot_k>;
template struct Expose<RotatesValues, &llama_kv_cache::attn_rot_v>;
template struct Expose<HeadSize, &llama_kv_cache::n_embd_head_k_all>;

bool is_turbo(ggml_type type) {
    return is_turbo_number(static_cast<int64_t>(type));
}

// The caches of keys and values in a context's memory; none for kinds that are not known here.
std::vector<const llama_kv_cache*> kv_caches(llama_memory_t memory) {
    if (const auto* cache = dynamic_cast<llama_kv_cache*>(memory)) return {cache};
    if (const auto* both = dynamic_cast<llama_kv_cache_iswa*>(memory)) {
        return {both->get_base(), both->get_swa()};
    }
    if (const auto* hybrid = dynamic_cast<llama_memory_hybrid*>(memory)) {
        return {hybrid->get_mem_attn()};
    }
    if (const auto* hybrid = dynamic_cast<llama_memory_hybrid_iswa*>(memory)) {
        return {hybrid->get_mem_attn()->get_base(), hybrid->get_mem_attn()->get_swa()};
    }
    return {};
}

// The pairs of GGML_CUDA_FA_QUANTS and APEX_TURBO_VEC, between semicolons.
bool is_compiled_pair(const std::string& pair) {
    constexpr std::string_view kPairs = ";" APEX_CUDA_CACHE_PAIRS ";";
    if (kPairs.find(";" + pair + ";") != kPairs.npos) return true;
    return kPairs.find(";all;") != kPairs.npos && pair.find("turbo") == pair.npos;
}

void check_turbo(const Model& model, ggml_type type, bool of_values) {
    const llama_hparams& hparams = model.get()->hparams;
    const std::string what =
        model.path() + ": a cache of type " + ggml_type_name(type) + " cannot be had: ";
    if (hparams.is_mla() || model.get()->arch == LLM_ARCH_DEEPSEEK4) {
        fail<ModelError>(what, "its values are part of its compressed keys (MLA), which llama.cpp ",
                         "does not rotate; use q8_0");
    }
    for (uint32_t layer = 0; layer < hparams.n_layer(); ++layer) {
        if (!hparams.has_kv(layer)) continue;
        const uint32_t size =
            of_values ? hparams.n_embd_head_v(layer) : hparams.n_embd_head_k(layer);
        if (size % QK_TURBO != 0) {
            fail<ModelError>(what, "heads of layer ", layer, " have ", size,
                             " values, expected a multiple of ", QK_TURBO, "; use q8_0 or q4_0");
        }
    }
    for (int i = 0; i < llama_model_n_devices(model.get()); ++i) {
        ggml_backend_dev_t device = llama_model_get_device(model.get(), i);
        const std::string_view name = ggml_backend_reg_name(ggml_backend_dev_backend_reg(device));
        if (name != "CPU" && name != "CUDA") {
            fail<ModelError>(what, "ggml's backend ", name,
                             " has no kernels for it; use q8_0 or q4_0");
        }
    }
}

}  // namespace

const std::vector<ggml_type>& cache_types() {
    static const std::vector<ggml_type> kTypes = {
        GGML_TYPE_F32,    GGML_TYPE_F16,    GGML_TYPE_BF16,   GGML_TYPE_Q8_0,   GGML_TYPE_Q5_1,
        GGML_TYPE_Q5_0,   GGML_TYPE_Q4_1,   GGML_TYPE_Q4_0,   GGML_TYPE_IQ4_NL,
#if APEX_TURBO
        GGML_TYPE_TURBO4, GGML_TYPE_TURBO3, GGML_TYPE_TURBO2,
#endif
    };
    return kTypes;
}

bool is_cache_type(ggml_type type) {
    const std::vector<ggml_type>& types = cache_types();
    return std::find(types.begin(), types.end(), type) != types.end();
}

bool is_turbo_number(int64_t number) {
    return APEX_TURBO && number >= GGML_TYPE_TURBO2 && number <= GGML_TYPE_TURBO4;
}

ggml_type checked_any_type(int64_t number) {
    if (number < GGML_TYPE_TURBO2 || number > GGML_TYPE_TURBO4) return checked_type(number);
    if (!is_turbo_number(number)) {
        fail<InvalidArgument>("this build has no cache types turbo2, turbo3 and turbo4; reinstall ",
                              "without -DAPEX_TURBO=OFF, or use q8_0 or q4_0");
    }
    return static_cast<ggml_type>(number);
}

CachePath cuda_cache_path(ggml_type type_k, ggml_type type_v) {
    if (std::string_view(APEX_CUDA_CACHE_PAIRS).empty()) return CachePath::direct;
    // ggml_cuda_fattn_kv_type_supported (ggml-cuda/fattn.cu)
    if (type_k == GGML_TYPE_IQ4_NL || type_v == GGML_TYPE_IQ4_NL) return CachePath::on_host;
    auto name = [](ggml_type type) {  // kernels of F16 also take what is read as F16
        return std::string(ggml_type_name(type == GGML_TYPE_F32 ? GGML_TYPE_F16 : type));
    };
    return is_compiled_pair(name(type_k) + "-" + name(type_v)) ? CachePath::direct
                                                               : CachePath::converted;
}

void check_cache_types(const Model& model, ggml_type type_k, ggml_type type_v) {
    for (const ggml_type type : {type_k, type_v}) {
        if (is_cache_type(type)) continue;
        std::string names;
        for (const ggml_type known : cache_types())
            names += std::string(" ") + ggml_type_name(known);
        fail<InvalidArgument>("a KV cache cannot have type ", ggml_type_name(type),
                              "; expected one of", names);
    }
    if (is_turbo(type_k)) check_turbo(model, type_k, false);
    if (is_turbo(type_v)) check_turbo(model, type_v, true);
}

void check_cache_rotation(const Model& model, llama_context* context, ggml_type type_k,
                          ggml_type type_v) {
    if (!is_turbo(type_k) && !is_turbo(type_v)) return;
    if (model.is_recurrent() && !model.is_hybrid()) return;  // it has no keys and values
    const std::vector<const llama_kv_cache*> caches = kv_caches(llama_get_memory(context));
    bool rotated = !caches.empty();
    for (const llama_kv_cache* cache : caches) {
        if (cache->*member(HeadSize()) == 0) continue;
        if (is_turbo(type_k)) rotated = rotated && cache->*member(RotatesKeys());
        if (is_turbo(type_v)) rotated = rotated && cache->*member(RotatesValues());
    }
    // Only to measure what the rotation is for (bench/kv_cache.py).
    if (rotated || std::getenv("APEX_TURBO_UNROTATED") != nullptr) return;
    const char* disabled = std::getenv("LLAMA_ATTN_ROT_DISABLE");
    const bool by_user = disabled != nullptr && std::atoi(disabled) != 0;
    fail<ModelError>(
        model.path(), ": a cache of types ", ggml_type_name(type_k), " and ",
        ggml_type_name(type_v), " cannot be had: turbo types hold rotated values, and ",
        by_user ? "LLAMA_ATTN_ROT_DISABLE is set; unset it, or use q8_0 or q4_0"
                : "llama.cpp rotates none of this model's (its layers' heads differ in "
                  "size, or its cache is of another kind); use q8_0 or q4_0");
}

}  // namespace apex
