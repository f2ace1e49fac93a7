// Differential test of the GPU's algorithms without a GPU: the per-thread code of csrc/cuda,
// compiled for the CPU, against ggml_quantize_chunk, byte for byte.
//
//   twin_vs_ggml [--types q4_K,q6_K] [--rows 2000] [--seed 1] [--matrix both]
//
// The other half, weights restored from blocks one by one, is compared with ggml's to_float. The
// options are those of kernels_vs_ggml. Prints one line per type and matrix setting: rows
// compared, how many of them the code hands back to the CPU's path (sums out of range), how many
// differ. Exit code 1 if any row differs, 2 if the options are wrong.
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "awkward_rows.h"
#include "cuda/all_types.cuh"
#include "cuda/grid_data.h"
#include "cuda/restore.cuh"

namespace {

using namespace apex::tests;
using apex::cuda::GridData;
using apex::cuda::Tables;

const apex::cuda::CodebookCells kCodebook;

struct Counts {
    int64_t rows = 0;
    int64_t handed_back = 0;
    int64_t differ = 0;
    int64_t restored_differ = 0;  // weights
};

Tables tables_of(ggml_type type) {
    const GridData* grid = apex::cuda::grid_data(type);
    return {grid ? grid->on_host() : apex::cuda::Grid{}, &kCodebook};
}

// All weights of ggml's blocks.
template <typename Type>
void compare_restored(const Chunk& chunk, Counts& counts) {
    using Block = typename Type::Block;
    const auto block_size = static_cast<int64_t>(ggml_blck_size(chunk.type));
    const int64_t n = chunk.nrows * chunk.width;
    std::vector<float> expected(static_cast<size_t>(n));
    ggml_get_type_traits(chunk.type)->to_float(chunk.stock.data(), expected.data(), n);
    const auto* blocks = reinterpret_cast<const Block*>(chunk.stock.data());
    for (int64_t i = 0; i < n; ++i) {
        const float own =
            apex::cuda::restore(blocks[i / block_size], static_cast<int>(i % block_size));
        const float wanted = expected[static_cast<size_t>(i)];
        if (std::memcmp(&own, &wanted, sizeof(own)) == 0) continue;
        if (own != own && wanted != wanted) continue;
        if (counts.restored_differ++ < 3) {
            std::printf("  %s: weight %lld of a row is %g, ggml has %g\n",
                        ggml_type_name(chunk.type), (long long)(i % chunk.width), own, wanted);
        }
    }
}

void compare(const Chunk& chunk, uint64_t seed, Counts& counts) {
    const size_t row_size = chunk.row_size();
    // Another fill than ggml's, so that a byte neither writes shows up as a difference too.
    std::vector<uint8_t> own(chunk.stock.size(), 0x55);
    std::vector<uint8_t> overflowed(static_cast<size_t>(chunk.nrows));
    apex::cuda::visit_type(chunk.type, chunk.imatrix() != nullptr, [&](auto tag) {
        apex::cuda::quantize_rows_on_host<typename decltype(tag)::Type>(
            chunk.rows.data(), own.data(), chunk.nrows, chunk.width, chunk.imatrix(),
            tables_of(chunk.type), overflowed.data());
        compare_restored<typename decltype(tag)::Type>(chunk, counts);
    });
    counts.rows += chunk.nrows;
    for (int64_t row = 0; row < chunk.nrows; ++row) {
        const size_t offset = static_cast<size_t>(row) * row_size;
        const uint8_t* stock = chunk.stock.data() + offset;
        if (overflowed[static_cast<size_t>(row)] != 0) {
            ++counts.handed_back;
            continue;
        }
        if (std::memcmp(stock, own.data() + offset, row_size) == 0) continue;
        if (counts.differ++ < 3) {
            print_difference(chunk, "twin", row, stock, own.data() + offset, seed);
        }
    }
}

struct Options {
    std::vector<ggml_type> types;
    int64_t rows = 2000;
    uint64_t seed = 1;
    bool with = true;
    bool without = true;
};

// False if a row differs.
bool compare_type(ggml_type type, bool with_imatrix, const Options& options) {
    if (!apex::cuda::visit_type(type, with_imatrix, [](auto) {})) return true;
    Random r(options.seed * 1000003 + static_cast<uint64_t>(type) * 2 + with_imatrix);
    Counts counts;
    for (int kind = 0; counts.rows < options.rows; ++kind) {
        const auto data = static_cast<Data>(kind % static_cast<int>(Data::count));
        compare(make_chunk(type, data, with_imatrix, r), options.seed, counts);
    }
    std::printf("%-8s %-10s rows %7lld  handed back %lld  differ %lld  restored differ %lld\n",
                ggml_type_name(type), with_imatrix ? "matrix" : "no matrix", (long long)counts.rows,
                (long long)counts.handed_back, (long long)counts.differ,
                (long long)counts.restored_differ);
    std::fflush(stdout);
    return counts.differ == 0 && counts.restored_differ == 0;
}

[[noreturn]] void usage(const std::string& problem) {
    std::fprintf(stderr, "twin_vs_ggml: %s\n", problem.c_str());
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
        } else if (key == "--matrix") {
            options.with = text != "without";
            options.without = text != "with";
        } else {
            usage("unknown option: " + key);
        }
    }
    if (options.types.empty()) options.types = all_types();
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    bool equal = true;
    for (ggml_type type : options.types) {
        if (options.with) equal = compare_type(type, true, options) && equal;
        if (options.without) equal = compare_type(type, false, options) && equal;
    }
    return equal ? 0 : 1;
}
