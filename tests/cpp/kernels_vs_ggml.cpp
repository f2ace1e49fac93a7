// Differential test: apex::kernels against ggml_quantize_chunk, byte for byte.
//
//   kernels_vs_ggml [--types q4_K,q6_K] [--rows 2000] [--seed 1] [--isa avx2,avx512,neon]
//                   [--matrix both]
//
// --types: ggml type names, default all with a kernel. --rows: rows per type and matrix setting,
// spread over data kinds, matrix kinds and widths. --isa: some of avx2, avx512, neon, default all
// that this CPU has; ggml's bytes are computed once for all. --matrix: with, without or both.
// Prints one line per type, matrix setting and ISA: rows compared, how many of them our function
// left to ggml (UndefinedInGgml), how many differ. Exit code 1 if any row differs, 2 if the options
// are wrong or the CPU lacks an ISA that was named.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "awkward_rows.h"
#include "kernels/kernels.h"

namespace {

using apex::kernels::Isa;
using namespace apex::tests;

struct NamedIsa {
    Isa isa;
    const char* name;
};
const NamedIsa kIsas[] = {{Isa::neon, "neon"}, {Isa::avx2, "avx2"}, {Isa::avx512, "avx512"}};

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
        for (ggml_type type : all_types()) {
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
    if (options.types.empty()) options.types = all_types();
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
