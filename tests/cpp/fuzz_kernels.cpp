// Coverage-guided fuzzing of apex::kernels against ggml: the same bytes for any finite weights and
// any matrix of finite values >= 0, on every instruction set of this CPU.
//
//   cmake -S . -B build/fuzz -G Ninja -DAPEX_FUZZ=ON -DAPEX_BUILD_TESTS=ON
//     -DAPEX_BUILD_EXTENSION=OFF -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++
//   cmake --build build/fuzz --target fuzz_kernels
//   build/fuzz/tests/cpp/fuzz_kernels -max_len=2048 -len_control=0 -max_total_time=180 CORPUS
//
// Without APEX_FUZZ, replay_inputs.cpp is the main: it runs stored inputs or seeded random ones.
//
// The first eight bytes of an input choose the type, the shape and how the others become weights
// and matrix (Recipe); raw float bits are among the ways, so every finite float can occur.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <vector>

#include "core/abort_guard.h"
#include "ggml.h"
#include "kernels/kernels.h"
#include "kernels/quantized_types.h"

namespace {

using apex::kernels::Isa;

// Bytes read in a circle, so that a short input fills any number of weights.
struct Bytes {
    const uint8_t* data;
    size_t size;
    size_t at = 0;

    uint8_t next() { return size == 0 ? 0 : data[at++ % size]; }
    uint32_t next(int n) {
        uint32_t value = 0;
        for (int i = 0; i < n; ++i) value |= static_cast<uint32_t>(next()) << (8 * i);
        return value;
    }
};

float finite_float(uint32_t bits) {
    if ((bits & 0x7f800000u) == 0x7f800000u) bits ^= 0x40000000u;  // infinity and NaN: to about 1
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
}

enum class Form { float_bits, bf16_bits, small_integers, few_values, count };

// exponent: of the unit of small integers and few values.
float make_value(Form form, Bytes& bytes, int exponent) {
    switch (form) {
        case Form::float_bits:
            return finite_float(bytes.next(4));
        case Form::bf16_bits:
            return finite_float(bytes.next(2) << 16);
        case Form::few_values:
            return std::ldexp(static_cast<float>(bytes.next() % 5 - 2), exponent);
        default:
            return std::ldexp(static_cast<float>(static_cast<int8_t>(bytes.next())), exponent);
    }
}

struct Input {
    ggml_type type;
    int64_t n_rows, n_per_row;
    std::vector<float> weights, imatrix;  // imatrix is empty where there is none
};

Input make_input(const uint8_t* data, size_t size) {
    Bytes head{data, 8};
    Input in;
    in.type =
        apex::kernels::kQuantizedTypes[head.next() % std::size(apex::kernels::kQuantizedTypes)]
            .type;
    const uint8_t shape = head.next();
    in.n_rows = 1 + shape % 3;
    in.n_per_row = 256 * (1 + shape / 4 % 4);
    const auto form = static_cast<Form>(head.next() % static_cast<int>(Form::count));
    const int exponent = static_cast<int8_t>(head.next()) / 2;
    const uint8_t matrix = head.next();
    const int matrix_exponent = static_cast<int8_t>(head.next()) / 2;
    const size_t split = head.next(2) % (size - 8 + 1);
    Bytes weights{data + 8, split}, importance{data + 8 + split, size - 8 - split};
    in.weights.resize(static_cast<size_t>(in.n_rows * in.n_per_row));
    for (float& x : in.weights) x = make_value(form, weights, exponent);
    if (matrix % 4 == 0 && !ggml_quantize_requires_imatrix(in.type)) return in;
    const auto matrix_form = static_cast<Form>(matrix / 4 % static_cast<int>(Form::count));
    in.imatrix.resize(static_cast<size_t>(in.n_per_row));
    for (float& m : in.imatrix) {
        m = std::fabs(make_value(matrix_form, importance, matrix_exponent));
    }
    return in;
}

// What a quantizer made of an input: bytes, or nothing where the caller gets a QuantizeError.
struct Outcome {
    std::vector<uint8_t> stored;
    bool refused = false;
    bool overflow = false;           // refused for that reason, by a kernel
    bool undefined_in_ggml = false;  // nothing to compare: the caller gets ggml's bytes
};

template <class Quantize>
Outcome outcome(const Input& in, uint8_t fill, Quantize quantize) {
    const size_t n_bytes = ggml_row_size(in.type, in.n_per_row) * static_cast<size_t>(in.n_rows);
    Outcome result{std::vector<uint8_t>(n_bytes, fill), false, false, false};
    const float* imatrix = in.imatrix.empty() ? nullptr : in.imatrix.data();
    try {
        quantize(in.weights.data(), result.stored.data(), imatrix);
        result.refused = !ggml_validate_row_data(in.type, result.stored.data(), n_bytes);
    } catch (const apex::GgmlAbort&) {
        result.refused = true;
    } catch (const apex::kernels::Overflow&) {
        result.refused = result.overflow = true;
    } catch (const apex::kernels::UndefinedInGgml&) {
        result.undefined_in_ggml = true;
    }
    return result;
}

Outcome by_ggml(const Input& in) {
    return outcome(in, 0xAA, [&](const float* x, void* dst, const float* imatrix) {
        apex::guarded(
            [&] { ggml_quantize_chunk(in.type, x, dst, 0, in.n_rows, in.n_per_row, imatrix); });
    });
}

void report(const Input& in, const char* isa, const Outcome& stock, const Outcome& own) {
    size_t at = 0;
    while (at < stock.stored.size() && stock.stored[at] == own.stored[at]) ++at;
    const float* x = in.weights.data();
    float largest = 0, largest_importance = 0;
    for (float v : in.weights) largest = std::max(largest, std::fabs(v));
    for (float m : in.imatrix) largest_importance = std::max(largest_importance, m);
    std::fprintf(stderr,
                 "%s %s, %lld x %lld, matrix %s: ggml %s, ours %s, first difference at byte %zu of "
                 "%zu; weights %g %g %g ..., largest %g, largest importance %g\n",
                 isa, ggml_type_name(in.type), (long long)in.n_rows, (long long)in.n_per_row,
                 in.imatrix.empty() ? "no" : "yes", stock.refused ? "refuses" : "accepts",
                 own.refused ? "refuses" : "accepts", at, stock.stored.size(), x[0], x[1], x[2],
                 largest, largest_importance);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 8) return 0;
    const Input in = make_input(data, size);
    const struct {
        Isa isa;
        const char* name;
    } isas[] = {{Isa::neon, "neon"}, {Isa::avx2, "avx2"}, {Isa::avx512, "avx512"}};
    Outcome stock;
    bool have_stock = false;
    for (const auto& [isa, name] : isas) {
        const auto kernel = apex::kernels::quantize_rows(in.type, isa, !in.imatrix.empty());
        if (kernel == nullptr) continue;
        const Outcome own = outcome(in, 0x55, [&](const float* x, void* dst, const float* imatrix) {
            kernel(x, dst, in.n_rows, in.n_per_row, imatrix);
        });
        // Nothing to compare where core/quantize_rows.cpp takes ggml's result instead of ours.
        if (own.undefined_in_ggml || (own.refused && !own.overflow)) continue;
        // Here ggml reads beyond its map before it asserts (ggml-quants.c, "not on grid").
        if (own.overflow && in.type == GGML_TYPE_IQ2_XXS) continue;
        if (!have_stock) stock = by_ggml(in);
        have_stock = true;
        const bool equal = stock.refused || stock.stored == own.stored;
        if (stock.refused == own.refused && equal) continue;
        report(in, name, stock, own);
        std::abort();
    }
    return 0;
}
