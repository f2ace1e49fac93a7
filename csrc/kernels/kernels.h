// Vectorised CPU quantizers whose output is byte for byte that of ggml_quantize_chunk.
#pragma once

#include <cstdint>
#include <exception>

#include "ggml.h"

namespace apex::kernels {

enum class Isa { portable, neon, avx2, avx512 };

// The best instruction set of this CPU, no better than what the environment variable
// APEX_ISA=portable|neon|avx2|avx512 allows. Any other value of the variable is ignored.
Isa best_isa();

// The weights or importances are so large that sums overflow and ggml fails an assertion.
struct Overflow : std::exception {
    const char* what() const noexcept override { return "a sum of the search overflows"; }
};

// What ggml does with these weights is undefined behaviour: its own function must be called to find
// out what its compiler made of it.
struct UndefinedInGgml : std::exception {
    const char* what() const noexcept override { return "undefined behaviour in ggml"; }
};

// Out of line, because what is compiled once per instruction set shares no code with the rest.
[[noreturn]] void throw_overflow();
[[noreturn]] void throw_undefined_in_ggml();

// Quantizes nrows rows of n_per_row floats into dst (nrows * ggml_row_size bytes).
// n_per_row is a multiple of the type's block size. imatrix: n_per_row finite values >= 0, the
// importance of each column, or nullptr if the function was asked for without a matrix.
// Rows are independent; the functions are thread-safe. They throw Overflow (IQ2, IQ3 and
// IQ1 types) and, on x86, UndefinedInGgml (Q8_0); dst then holds garbage.
using QuantizeRows = void (*)(const float* src, void* dst, int64_t nrows, int64_t n_per_row,
                              const float* imatrix);

// The quantizer of a type, or nullptr if there is none and ggml_quantize_chunk must be called:
// Isa::portable, types without a kernel, and types that need a matrix asked for without one.
QuantizeRows quantize_rows(ggml_type type, Isa isa, bool with_imatrix);

}  // namespace apex::kernels
