// Every precondition that ggml would abort on or silently mis-size, as functions that throw.
#pragma once

#include <cstdint>
#include <string>

#include "ggml.h"

namespace apex {

// True for a type number that ggml knows and has not removed.
bool is_known_type(uint32_t number);

// The type of that number. Throws InvalidArgument where ggml has none.
ggml_type checked_type(int64_t number);

// ggml_row_size with its condition checked: the C assert there is gone in Release builds.
uint64_t row_bytes(ggml_type type, int64_t n_per_row);

// Weights can be written in this type (the switch of ggml_quantize_chunk has a branch for it).
bool is_quantize_target(ggml_type type);

// Weights of this type can be turned into floats.
bool is_readable_source(ggml_type type);

// ggml_quantize_chunk asserts on a missing matrix for these types.
bool kernel_requires_imatrix(ggml_type type);

// Throws InvalidArgument unless rows of n_per_row can go from one type to the other.
void check_conversion(const std::string& tensor, ggml_type source, ggml_type target,
                      int64_t n_per_row, bool has_imatrix);

// Throws QuantizeError unless all weights are finite.
void check_finite(const char* what, const float* weights, int64_t n);

// How many rows of n_per_row weights so many stored bytes are. Throws InvalidArgument where the
// type holds no weights that can be read, or where they are no whole rows.
int64_t check_stored(ggml_type type, int64_t n_bytes, int64_t n_per_row);

// Throws ImatrixError unless all values are finite and not negative: ggml's grid search asserts
// on the NaNs that others lead to.
void check_imatrix(const std::string& tensor, const float* values, int64_t n_per_row,
                   int64_t n_slices);

}  // namespace apex
