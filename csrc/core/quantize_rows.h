// Rows of floats to rows of any ggml type, byte-equal to ggml_quantize_chunk: by our own kernel
// where there is one for the type and the CPU (csrc/kernels), by ggml itself otherwise.
#pragma once

#include <cstdint>
#include <future>

#include "ggml.h"

namespace apex {

// Builds the search tables a type needs, on a thread of its own: ggml takes up to ten seconds for
// some. Returns at once; ready() then says whether quantize_rows can run without building. The
// thread belongs to the process, not to the caller, who may give up waiting.
class QuantizerTables {
  public:
    explicit QuantizerTables(ggml_type type);
    bool ready(int timeout_ms) const;

  private:
    std::shared_future<void> built_;
};

// dst receives n_rows * row_bytes(type, n_per_row) bytes. imatrix holds n_per_row values or is
// null. The caller has run check_conversion; values must be finite. Throws QuantizeError where the
// result is not valid (a scale overflowed) or where ggml's own assertions fail.
void quantize_rows(ggml_type type, const float* src, void* dst, int64_t n_rows, int64_t n_per_row,
                   const float* imatrix);

// The same by ggml's own function, whatever kernels there are: what ours is measured against.
void quantize_rows_by_ggml(ggml_type type, const float* src, void* dst, int64_t n_rows,
                           int64_t n_per_row, const float* imatrix);

// The instruction set of the kernels in use: "avx512", "avx2" or "portable" (ggml does it all).
const char* kernel_isa();

}  // namespace apex
