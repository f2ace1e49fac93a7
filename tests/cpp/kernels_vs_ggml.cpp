// Differential test: apex::kernels against ggml_quantize_chunk, byte for byte.
//
//   kernels_vs_ggml [--types q4_K,q6_K] [--rows 2000] [--seed 1] [--isa avx2,avx512]
//                   [--matrix both]
//
// --types: ggml type names, default all with a kernel. --rows: rows per type and matrix setting,
// spread over data kinds, matrix kinds and widths. --isa: avx2, avx512 or both, default all that
// this CPU has; ggml's bytes are computed once for all. --matrix: with, without or both.
// Prints one line per type, matrix setting and ISA: rows compared, how many of them our function
// left to ggml (UndefinedInGgml), how many differ. Exit code 1 if any row differs, 2 if the options
// are wrong or the CPU lacks an ISA that was named.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "ggml.h"
#include "kernels/kernels.h"

namespace {

using apex::kernels::Isa;
using Random = std::mt19937_64;

const ggml_type kTypes[] = {
    GGML_TYPE_Q8_0,  GGML_TYPE_Q6_K,   GGML_TYPE_Q5_K,    GGML_TYPE_Q4_K,  GGML_TYPE_Q3_K,
    GGML_TYPE_Q2_K,  GGML_TYPE_IQ4_XS, GGML_TYPE_IQ4_NL,  GGML_TYPE_IQ3_S, GGML_TYPE_IQ3_XXS,
    GGML_TYPE_IQ2_S, GGML_TYPE_IQ2_XS, GGML_TYPE_IQ2_XXS, GGML_TYPE_IQ1_M, GGML_TYPE_IQ1_S,
};

enum class Data {
    gaussian,
    heavy_tailed,
    uniform,
    constant,
    all_zero,
    single_outlier,
    denormal,
    signed_zero,
    bf16_ties,
    mixed_scales,
    one_sided,
    tiny,
    huge,
    count
};
enum class Matrix { positive, with_zeros, huge_range, all_equal, tiny_range, count };

const char* const kDataNames[] = {"gaussian",  "heavy_tailed",   "uniform",   "constant",
                                  "all_zero",  "single_outlier", "denormal",  "signed_zero",
                                  "bf16_ties", "mixed_scales",   "one_sided", "tiny",
                                  "huge"};
const char* const kMatrixNames[] = {"positive", "with_zeros", "huge_range", "all_equal",
                                    "tiny_range"};

float uniform(Random& r, float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(r);
}
float gaussian(Random& r) {
    return std::normal_distribution<float>(0.0f, 1.0f)(r);
}

// Rounded to eight bits of mantissa: model weights are stored like this, so values tie often.
float to_bf16(float x) {
    uint32_t b;
    std::memcpy(&b, &x, 4);
    b = (b + 0x7fff + ((b >> 16) & 1)) & 0xffff0000u;
    std::memcpy(&x, &b, 4);
    return x;
}

float value(Data kind, Random& r, float scale, int64_t column, int64_t outlier) {
    switch (kind) {
        case Data::gaussian:
            return scale * gaussian(r);
        case Data::heavy_tailed:
            return scale * gaussian(r) / (std::fabs(gaussian(r)) + 1e-3f);
        case Data::uniform:
            return uniform(r, -scale, scale);
        case Data::constant:
            return scale;
        case Data::all_zero:
            return 0.0f;
        case Data::single_outlier:
            return column == outlier ? 1000 * scale : 0.001f * scale * gaussian(r);
        case Data::denormal:
            return std::numeric_limits<float>::denorm_min() * std::floor(uniform(r, -5e6f, 5e6f));
        case Data::signed_zero: {
            const float u = uniform(r, 0, 1);
            return u < 0.4f ? 0.0f : u < 0.8f ? -0.0f : scale * gaussian(r);
        }
        case Data::bf16_ties:
            return to_bf16(scale * gaussian(r));
        case Data::mixed_scales:  // a few dozen binades within one super-block
            return gaussian(r) * std::ldexp(scale, static_cast<int>(uniform(r, -20, 20)));
        case Data::one_sided:  // narrow range far from zero: the scale and min search's odd corner
            return -scale * (1.0f + 0.01f * uniform(r, 0, 1));
        case Data::tiny:  // around GROUP_MAX_EPS, where ggml gives a group up as zero
            return 1e-15f * gaussian(r) * std::ldexp(1.0f, 4 * static_cast<int>(column / 64 % 5));
        case Data::huge:
            return 1e6f * scale * gaussian(r);
        case Data::count:
            break;
    }
    return 0.0f;
}

void fill(Data kind, Random& r, int64_t nrows, int64_t width, std::vector<float>& rows) {
    rows.resize(nrows * width);
    for (int64_t row = 0; row < nrows; ++row) {
        const float scale = std::exp(uniform(r, -6, 2)) * (uniform(r, 0, 1) < 0.3f ? -1.0f : 1.0f);
        const int64_t outlier = static_cast<int64_t>(uniform(r, 0, 0.999f) * width);
        for (int64_t i = 0; i < width; ++i) {
            rows[row * width + i] = value(kind, r, scale, i, outlier);
        }
    }
}

void fill(Matrix kind, Random& r, int64_t width, std::vector<float>& matrix) {
    matrix.resize(width);
    for (float& m : matrix) {
        switch (kind) {
            case Matrix::positive:
                m = uniform(r, 0.01f, 2.0f);
                break;
            case Matrix::with_zeros:
                m = uniform(r, 0, 1) < 0.5f ? 0.0f : uniform(r, 0.0f, 2.0f);
                break;
            case Matrix::huge_range:
                m = std::exp(uniform(r, -20, 20));
                break;
            case Matrix::all_equal:
                m = 1.0f;
                break;
            default:
                m = 1e-12f * uniform(r, 0.5f, 1.0f);
                break;
        }
    }
}

struct NamedIsa {
    Isa isa;
    const char* name;
};
const NamedIsa kIsas[] = {{Isa::avx2, "avx2"}, {Isa::avx512, "avx512"}};

bool cpu_has(Isa isa) {
    return apex::kernels::quantize_rows(GGML_TYPE_Q8_0, isa, true) != nullptr;
}

struct Options {
    std::vector<ggml_type> types;
    int64_t rows = 2000;
    uint64_t seed = 1;
    std::vector<NamedIsa> isas;
    bool with = true;
    bool without = true;
};

// One of our functions and how it did.
struct Contestant {
    const char* isa;
    apex::kernels::QuantizeRows quantize;
    int64_t left_to_ggml = 0;
    int64_t differ = 0;
};

// Rows quantized by ggml, and all that is needed to describe one that differs.
struct Chunk {
    ggml_type type;
    Data data;
    const char* matrix_name;
    int64_t nrows, width;
    std::vector<float> rows, matrix;
    std::vector<uint8_t> stock;

    size_t row_size() const { return ggml_row_size(type, width); }
    const float* imatrix() const { return matrix.empty() ? nullptr : matrix.data(); }
};

// Mostly one or two super-blocks: more rows for the time, and batches that cross rows.
constexpr int64_t kWidths[] = {256, 256, 256, 256, 256, 256,  256,  256,  256,  256,
                               512, 512, 512, 768, 768, 1024, 1280, 2048, 4096, 8192};
constexpr int kWidthCount = sizeof(kWidths) / sizeof(kWidths[0]);

Chunk make_chunk(ggml_type type, Data data, bool with_imatrix, Random& r) {
    Chunk chunk{type, data, "none", 0, kWidths[r() % kWidthCount], {}, {}, {}};
    chunk.nrows = 1 + static_cast<int64_t>(r() % static_cast<uint64_t>(1 + 16384 / chunk.width));
    if (ggml_blck_size(type) == 32 && r() % 2) chunk.width -= 32 * static_cast<int64_t>(r() % 7);
    fill(data, r, chunk.nrows, chunk.width, chunk.rows);
    const auto matrix = static_cast<Matrix>(r() % static_cast<int>(Matrix::count));
    if (with_imatrix) {
        chunk.matrix_name = kMatrixNames[static_cast<int>(matrix)];
        fill(matrix, r, chunk.width, chunk.matrix);
    }
    chunk.stock.assign(static_cast<size_t>(chunk.nrows) * chunk.row_size(), 0xAA);
    ggml_quantize_chunk(type, chunk.rows.data(), chunk.stock.data(), 0, chunk.nrows, chunk.width,
                        chunk.imatrix());
    return chunk;
}

void print_difference(const Chunk& chunk, const char* isa, int64_t row, const uint8_t* stock,
                      const uint8_t* own, uint64_t seed) {
    size_t at = 0;
    while (stock[at] == own[at]) ++at;
    std::printf(
        "  %s %s: data %s, matrix %s, width %lld, row %lld of %lld: byte %zu is %02x, ggml "
        "has %02x (seed %llu)\n",
        isa, ggml_type_name(chunk.type), kDataNames[static_cast<int>(chunk.data)],
        chunk.matrix_name, (long long)chunk.width, (long long)row, (long long)chunk.nrows, at,
        own[at], stock[at], (unsigned long long)seed);
}

void compare(const Chunk& chunk, Contestant& ours, uint64_t seed) {
    const size_t row_size = chunk.row_size();
    // Another fill than ggml's, so that a byte neither writes shows up as a difference too.
    std::vector<uint8_t> own(chunk.stock.size(), 0x55);
    try {
        ours.quantize(chunk.rows.data(), own.data(), chunk.nrows, chunk.width, chunk.imatrix());
    } catch (const apex::kernels::UndefinedInGgml&) {
        ours.left_to_ggml += chunk.nrows;
        return;
    }
    for (int64_t row = 0; row < chunk.nrows; ++row) {
        const size_t offset = static_cast<size_t>(row) * row_size;
        const uint8_t* stock = chunk.stock.data() + offset;
        if (std::memcmp(stock, own.data() + offset, row_size) == 0) continue;
        if (ours.differ++ < 3) {
            print_difference(chunk, ours.isa, row, stock, own.data() + offset, seed);
        }
    }
}

// False if a row differs.
bool compare_type(ggml_type type, bool with_imatrix, const Options& options) {
    std::vector<Contestant> contestants;
    for (const NamedIsa& isa : options.isas) {
        const auto quantize = apex::kernels::quantize_rows(type, isa.isa, with_imatrix);
        if (quantize != nullptr) contestants.push_back({isa.name, quantize});
    }
    if (contestants.empty()) return !with_imatrix;  // a type that needs a matrix
    Random r(options.seed * 1000003 + static_cast<uint64_t>(type) * 2 + with_imatrix);
    int64_t rows = 0;
    for (int kind = 0; rows < options.rows; ++kind) {
        const auto data = static_cast<Data>(kind % static_cast<int>(Data::count));
        const Chunk chunk = make_chunk(type, data, with_imatrix, r);
        for (Contestant& ours : contestants) compare(chunk, ours, options.seed);
        rows += chunk.nrows;
    }
    bool equal = true;
    for (const Contestant& ours : contestants) {
        std::printf("%-8s %-10s %-7s rows %7lld  left to ggml %lld  differ %lld\n",
                    ggml_type_name(type), with_imatrix ? "matrix" : "no matrix", ours.isa,
                    (long long)rows, (long long)ours.left_to_ggml, (long long)ours.differ);
        equal = equal && ours.differ == 0;
    }
    std::fflush(stdout);
    return equal;
}

[[noreturn]] void usage(const std::string& problem) {
    std::fprintf(stderr, "kernels_vs_ggml: %s\n", problem.c_str());
    std::exit(2);
}

void parse_types(const std::string& list, Options& options) {
    std::stringstream names(list);
    for (std::string name; std::getline(names, name, ',');) {
        bool found = false;
        for (ggml_type type : kTypes) {
            if (name != ggml_type_name(type)) continue;
            options.types.push_back(type);
            found = true;
        }
        if (!found) usage("no such type: " + name);
    }
}

void parse_isas(const std::string& list, Options& options) {
    std::stringstream names(list);
    for (std::string name; std::getline(names, name, ',');) {
        bool found = false;
        for (const NamedIsa& isa : kIsas) {
            if (name != isa.name) continue;
            if (!cpu_has(isa.isa)) usage("this CPU has no " + name);
            options.isas.push_back(isa);
            found = true;
        }
        if (!found) usage("no such ISA: " + name);
    }
}

Options parse(int argc, char** argv) {
    Options options;
    if (argc % 2 == 0) usage("expected pairs of option and value");
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string key = argv[i], text = argv[i + 1];
        if (key == "--types") {
            parse_types(text, options);
        } else if (key == "--rows") {
            options.rows = std::stoll(text);
        } else if (key == "--seed") {
            options.seed = std::stoull(text);
        } else if (key == "--isa") {
            parse_isas(text, options);
        } else if (key == "--matrix") {
            options.with = text != "without";
            options.without = text != "with";
        } else {
            usage("unknown option: " + key);
        }
    }
    if (options.types.empty()) options.types.assign(std::begin(kTypes), std::end(kTypes));
    if (options.isas.empty()) {
        for (const NamedIsa& isa : kIsas) {
            if (cpu_has(isa.isa)) options.isas.push_back(isa);
        }
    }
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    if (options.isas.empty()) usage("this CPU has none of the instruction sets");
    bool equal = true;
    for (ggml_type type : options.types) {
        if (options.with) equal = compare_type(type, true, options) && equal;
        if (options.without) equal = compare_type(type, false, options) && equal;
    }
    return equal ? 0 : 1;
}
