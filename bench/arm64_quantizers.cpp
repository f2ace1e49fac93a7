// Quantizers of this build on rows from a file, for bench/arm64_stock_bytes.py and
// bench/arm64_instructions.py, which cross-compile this and run it under qemu.
//
//   arm64_quantizers bytes ROWS OUT      ggml's bytes: every type, with and without matrix, in turn
//   arm64_quantizers count ROWS [TYPE]   a line per type, matrix and side; see below
//
// ROWS: float32, first a matrix of kWidth importances, then rows of kWidth weights. What to expect
// in OUT and among the lines is printed, so that no caller has a list of its own.
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "ggml.h"
#include "kernels/kernels.h"
#include "kernels/quantized_types.h"

namespace {

constexpr int64_t kWidth = 2048;

// Types of APEX tiers and of llama.cpp's mixes that only ggml itself quantizes.
constexpr ggml_type kWithoutKernels[] = {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0,
                                         GGML_TYPE_Q5_1};

struct Input {
    std::vector<float> matrix, rows;
    int64_t n_rows() const { return static_cast<int64_t>(rows.size()) / kWidth; }
};

Input read_input(const char* path) {
    std::ifstream in(path, std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(in)), {});
    std::vector<float> all(bytes.size() / sizeof(float));
    if (!all.empty()) std::memcpy(all.data(), bytes.data(), all.size() * sizeof(float));
    if (all.size() < 2 * kWidth || all.size() % kWidth != 0) {
        throw std::runtime_error(std::string(path) + ": expected float32 rows of 2048");
    }
    return {{all.begin(), all.begin() + kWidth}, {all.begin() + kWidth, all.end()}};
}

template <typename Visit>
void for_each_setting(const Input& input, const Visit& visit) {
    std::vector<ggml_type> types;
    for (const apex::kernels::QuantizedType& known : apex::kernels::kQuantizedTypes) {
        types.push_back(known.type);
    }
    types.insert(types.end(), std::begin(kWithoutKernels), std::end(kWithoutKernels));
    for (const ggml_type type : types) {
        visit(type, input.matrix.data());
        if (!ggml_quantize_requires_imatrix(type)) visit(type, nullptr);
    }
}

void write_bytes(const Input& input, const char* path) {
    std::ofstream out(path, std::ios::binary);
    for_each_setting(input, [&](ggml_type type, const float* matrix) {
        std::vector<char> bytes(ggml_row_size(type, kWidth) * static_cast<size_t>(input.n_rows()));
        ggml_quantize_chunk(type, input.rows.data(), bytes.data(), 0, input.n_rows(), kWidth,
                            matrix);
        out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
        std::printf("%s %s %zu %zu\n", ggml_type_name(type), matrix ? "matrix" : "none",
                    bytes.size(), ggml_type_size(type));
    });
    if (!out.flush()) throw std::runtime_error(std::string(path) + ": cannot be written");
}

// A system call that does nothing else: bench/count_instructions.c writes down its count at each.
void mark() {
    syscall(SYS_getppid);
}

// Marks enclose the second call, when tables and pages are there.
template <typename Quantize>
void count(const char* side, ggml_type type, bool with_matrix, int64_t n_weights,
           const Quantize& quantize) {
    quantize();
    mark();
    quantize();
    mark();
    std::printf("%s %s %s %lld\n", ggml_type_name(type), with_matrix ? "matrix" : "none", side,
                static_cast<long long>(n_weights));
}

void count_both(const Input& input, const std::string& only) {
    for_each_setting(input, [&](ggml_type type, const float* matrix) {
        if (!only.empty() && only != ggml_type_name(type)) return;
        const auto own = apex::kernels::quantize_rows(type, apex::kernels::best_isa(), matrix);
        if (own == nullptr) return;
        const size_t size = ggml_row_size(type, kWidth) * static_cast<size_t>(input.n_rows());
        std::vector<char> theirs(size), ours(size);
        const auto n_weights = static_cast<int64_t>(input.rows.size());
        count("ggml", type, matrix, n_weights, [&] {
            ggml_quantize_chunk(type, input.rows.data(), theirs.data(), 0, input.n_rows(), kWidth,
                                matrix);
        });
        count("ours", type, matrix, n_weights,
              [&] { own(input.rows.data(), ours.data(), input.n_rows(), kWidth, matrix); });
    });
}

}  // namespace

int main(int argc, char** argv) {
    const std::string mode = argc > 2 ? argv[1] : "";
    try {
        if (mode == "bytes" && argc == 4) {
            write_bytes(read_input(argv[2]), argv[3]);
            return 0;
        }
        if (mode == "count" && argc <= 4) {
            count_both(read_input(argv[2]), argc == 4 ? argv[3] : "");
            return 0;
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "arm64_quantizers: %s\n", error.what());
        return 2;
    }
    std::fprintf(stderr, "arm64_quantizers bytes ROWS OUT | arm64_quantizers count ROWS [TYPE]\n");
    return 2;
}
