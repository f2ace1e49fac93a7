#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>

#include "bf16_products.h"
#include "kernels.h"
#include "lookup.h"
#include "panel_products.h"

#if defined(__x86_64__)
namespace apex::kernels::bf16_avx2 {
Bf16Products lookup_products();
Bf16Products lookup_f16_products();
}  // namespace apex::kernels::bf16_avx2
namespace apex::kernels::bf16_avx512 {
Bf16Products lookup_products();
Bf16Products lookup_f16_products();
}  // namespace apex::kernels::bf16_avx512
namespace apex::kernels::panel_avx512_vnni {
const PanelType* lookup(ggml_type type);
}
#elif defined(__aarch64__)
namespace apex::kernels::bf16_neon {
Bf16Products lookup_products();
}
#endif

namespace apex::kernels {

namespace {

#if defined(__x86_64__)
// Some versions of clang do not know it as a feature of __builtin_cpu_supports.
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

Isa cpu_isa() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && has_f16c();
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::portable;
#elif defined(__aarch64__)
    return Isa::neon;  // part of the architecture
#else
    return Isa::portable;
#endif
}

Isa environment_limit() {
    const char* name = std::getenv("APEX_ISA");
    if (name && std::strcmp(name, "portable") == 0) return Isa::portable;
    if (name && std::strcmp(name, "neon") == 0) return Isa::neon;
    if (name && std::strcmp(name, "avx2") == 0) return Isa::avx2;
    return Isa::avx512;
}

}  // namespace

void throw_overflow() {
    throw Overflow();
}

void throw_undefined_in_ggml() {
    throw UndefinedInGgml();
}

Isa best_isa() {
    const Isa cpu = cpu_isa();
    const Isa limit = environment_limit();
    return limit < cpu ? limit : cpu;
}

QuantizeRows quantize_rows(ggml_type type, Isa isa, bool with_imatrix) {
#if defined(__x86_64__)
    // A caller may name an instruction set; never hand out code this CPU cannot run.
    if (isa > cpu_isa()) return nullptr;
    if (isa == Isa::avx512) return avx512::lookup(type, with_imatrix);
    if (isa == Isa::avx2) return avx2::lookup(type, with_imatrix);
#elif defined(__aarch64__)
    if (isa == Isa::neon) return neon::lookup(type, with_imatrix);
#endif
    (void)type;
    (void)isa;
    (void)with_imatrix;
    return nullptr;
}

Bf16Products bf16_products(Isa isa) {
#if defined(__x86_64__)
    if (isa > cpu_isa() || !__builtin_cpu_supports("fma")) return nullptr;
    if (isa == Isa::avx512) return bf16_avx512::lookup_products();
    if (isa == Isa::avx2) return bf16_avx2::lookup_products();
#elif defined(__aarch64__)
    if (isa == Isa::neon) return bf16_neon::lookup_products();
#endif
    (void)isa;
    return nullptr;
}

Bf16Products f16_products(Isa isa) {
#if defined(__x86_64__)
    if (isa > cpu_isa() || !__builtin_cpu_supports("fma")) return nullptr;
    if (isa == Isa::avx512) return bf16_avx512::lookup_f16_products();
    if (isa == Isa::avx2) return bf16_avx2::lookup_f16_products();
#endif
    (void)isa;
    return nullptr;
}

const PanelType* panel_type(ggml_type type, Isa isa) {
#if defined(__x86_64__)
    const bool vnni = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
    if (isa == Isa::avx512 && cpu_isa() == Isa::avx512 && vnni) {
        return panel_avx512_vnni::lookup(type);
    }
#endif
    (void)type;
    (void)isa;
    return nullptr;
}

}  // namespace apex::kernels
