// How fast the kernels of a device read, multiply and write weights: one interface for all devices.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ggml.h"

namespace apex {

// Bytes of a weight that count as moved, q being those of its stored form:
enum class KernelOperation {
    copy,       // 2 * 4: floats read and written; what memory gives, with no work in between
    read,       // 4: floats read and added up; what memory gives to a kernel that writes nothing
    to_float,   // q + 4: stored weights to floats, by ggml's own function
    widen,      // q + 4: the same by a faster function of ours, where there is one
    to_half,    // q + 2: the same to F16
    to_bfloat,  // q + 2: the same to BF16
    vec_dot,    // q: stored weights times activations, which stay in the cache
    mat_mul,    // q: a matrix times n_columns vectors of activations, as a graph computes it
    quantize,   // 4 + q: floats to stored weights, by what `quantize` uses
};

struct KernelRequest {
    KernelOperation operation = KernelOperation::copy;
    ggml_type type = GGML_TYPE_F32;  // copy and read: F32
    int64_t n_weights = 0;           // the working set, gone through again and again
    int n_threads = 1;               // of the host; a GPU ignores it
    int repetitions = 1;
    double sample_seconds = 0.1;  // a sample goes on until this has passed, and for one unit more
    int64_t n_columns = 1;        // of mat_mul
};

// What one repetition did, by the host's clock or by a device's events.
struct KernelSample {
    int64_t n_weights = 0;
    int64_t nanoseconds = 0;
};

struct KernelResult {
    std::vector<KernelSample> samples;
    int64_t n_weights = 0;    // the working set, rounded up to whole tiles
    double bytes_per_weight;  // moved, as defined above
    double relative_error;    // of what was computed, against double arithmetic on the tile
};

// Weights that are tiled over the working set; the values decide nothing about the speed, but the
// results are checked against them.
struct KernelTile {
    const float* weights = nullptr;  // n_rows * n_per_row, finite
    const float* imatrix = nullptr;  // n_per_row
    int64_t n_rows = 0;
    int64_t n_per_row = 0;
};

class KernelBench {
  public:
    virtual ~KernelBench() = default;

    virtual bool supports(KernelOperation operation, ggml_type type) const = 0;

    // Computes the tile once to check it, then takes the samples. stopped is asked often. Throws
    // InvalidArgument for what is not supported, Cancelled, and Error where results are wrong.
    virtual KernelResult run(const KernelRequest& request, const KernelTile& tile,
                             const std::function<bool()>& stopped) = 0;
};

// Moved bytes of a weight, from the definitions above; also what a weight of the working set takes.
double moved_bytes(KernelOperation operation, ggml_type type);

// The operation of a name as it is spelled in the enum, and the columns of "mat_mul_8": 1 of any
// other. Throws InvalidArgument.
struct NamedOperation {
    KernelOperation operation;
    int64_t n_columns = 1;
};
NamedOperation kernel_operation(const std::string& name);

}  // namespace apex
