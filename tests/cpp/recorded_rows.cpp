// Bytes of one machine, compared on another: what ggml makes of awkward rows on x86 is recorded,
// and the kernels of another architecture have to give the same.
//
//   recorded_rows record FILE ROWS [SEED]   rows per type and matrix setting, and ggml's bytes
//   recorded_rows replay FILE               our kernels' bytes for the same rows against them
//
// The rows themselves are in the file, since libm's exp and log differ between machines in the last
// bit. replay also has ggml's own function, as it was compiled here, do the rows, and says how many
// blocks it writes otherwise. Exit code 1 if a row of ours differs.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "awkward_rows.h"
#include "kernels/kernels.h"

namespace {

using namespace apex::tests;

constexpr uint64_t kMagic = 0x31776f7278657061;  // "apexrow1"

struct Head {
    int32_t type, data;
    int64_t nrows, width;
    int64_t has_matrix;
};

template <typename T>
void put(std::ostream& out, const T* values, size_t n) {
    out.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(n * sizeof(T)));
}

template <typename T>
bool take(std::istream& in, T* values, size_t n) {
    in.read(reinterpret_cast<char*>(values), static_cast<std::streamsize>(n * sizeof(T)));
    return static_cast<bool>(in);
}

bool needs_matrix(ggml_type type) {
    return ggml_quantize_requires_imatrix(type);
}

void record(const char* path, int64_t rows, uint64_t seed) {
    std::ofstream out(path, std::ios::binary);
    put(out, &kMagic, 1);
    for (ggml_type type : all_types()) {
        for (const bool with_imatrix : {true, false}) {
            if (!with_imatrix && needs_matrix(type)) continue;
            Random r(seed * 1000003 + static_cast<uint64_t>(type) * 2 + with_imatrix);
            int64_t done = 0;
            for (int kind = 0; done < rows; ++kind) {
                const auto data = static_cast<Data>(kind % static_cast<int>(Data::count));
                const Chunk chunk = make_chunk(type, data, with_imatrix, r);
                const Head head{type, static_cast<int32_t>(data), chunk.nrows, chunk.width,
                                with_imatrix};
                put(out, &head, 1);
                put(out, chunk.rows.data(), chunk.rows.size());
                put(out, chunk.matrix.data(), chunk.matrix.size());
                put(out, chunk.stock.data(), chunk.stock.size());
                done += chunk.nrows;
            }
        }
    }
    if (!out.flush()) throw std::runtime_error(std::string(path) + ": cannot be written");
}

bool take_chunk(std::istream& in, Chunk& chunk) {
    Head head;
    if (!take(in, &head, 1)) return false;
    chunk.type = static_cast<ggml_type>(head.type);
    chunk.data = static_cast<Data>(head.data);
    chunk.matrix_name = head.has_matrix ? "recorded" : "none";
    chunk.nrows = head.nrows;
    chunk.width = head.width;
    chunk.rows.resize(static_cast<size_t>(head.nrows * head.width));
    chunk.matrix.resize(head.has_matrix ? static_cast<size_t>(head.width) : 0);
    chunk.stock.resize(static_cast<size_t>(head.nrows) * chunk.row_size());
    return take(in, chunk.rows.data(), chunk.rows.size()) &&
           take(in, chunk.matrix.data(), chunk.matrix.size()) &&
           take(in, chunk.stock.data(), chunk.stock.size());
}

struct Count {
    int64_t rows = 0, left_to_ggml = 0, differ = 0, blocks = 0, stock_differ = 0;
};

// Blocks that ggml's function of this build writes otherwise than the recorded one.
int64_t blocks_that_differ(const Chunk& chunk) {
    std::vector<uint8_t> here(chunk.stock.size());
    ggml_quantize_chunk(chunk.type, chunk.rows.data(), here.data(), 0, chunk.nrows, chunk.width,
                        chunk.imatrix());
    const size_t size = ggml_type_size(chunk.type);
    int64_t differ = 0;
    for (size_t at = 0; at < here.size(); at += size) {
        differ += std::memcmp(here.data() + at, chunk.stock.data() + at, size) != 0;
    }
    return differ;
}

void replay_chunk(const Chunk& chunk, Count& count) {
    const auto quantize =
        apex::kernels::quantize_rows(chunk.type, apex::kernels::best_isa(), !chunk.matrix.empty());
    if (quantize == nullptr) throw std::runtime_error("no kernel for this type on this machine");
    count.rows += chunk.nrows;
    count.blocks += static_cast<int64_t>(chunk.stock.size() / ggml_type_size(chunk.type));
    count.stock_differ += blocks_that_differ(chunk);
    std::vector<uint8_t> own(chunk.stock.size(), 0x55);
    try {
        quantize(chunk.rows.data(), own.data(), chunk.nrows, chunk.width, chunk.imatrix());
    } catch (const apex::kernels::UndefinedInGgml&) {
        count.left_to_ggml += chunk.nrows;
        return;
    }
    const size_t row_size = chunk.row_size();
    for (int64_t row = 0; row < chunk.nrows; ++row) {
        const size_t at = static_cast<size_t>(row) * row_size;
        if (std::memcmp(chunk.stock.data() + at, own.data() + at, row_size) == 0) continue;
        if (count.differ++ < 3) {
            print_difference(chunk, "here", row, chunk.stock.data() + at, own.data() + at, 0);
        }
    }
}

bool replay(const char* path) {
    std::ifstream in(path, std::ios::binary);
    uint64_t magic = 0;
    if (!take(in, &magic, 1) || magic != kMagic) {
        throw std::runtime_error(std::string(path) + ": not a file of recorded rows");
    }
    std::map<std::pair<int, bool>, Count> counts;
    for (Chunk chunk{}; take_chunk(in, chunk);) {
        replay_chunk(chunk, counts[{chunk.type, !chunk.matrix.empty()}]);
    }
    bool equal = !counts.empty();
    for (const auto& [key, count] : counts) {
        std::printf(
            "%-8s %-9s rows %6lld  left to ggml %lld  differ %lld  ggml here: %.1f of 1000 "
            "blocks differ\n",
            ggml_type_name(static_cast<ggml_type>(key.first)), key.second ? "matrix" : "no matrix",
            (long long)count.rows, (long long)count.left_to_ggml, (long long)count.differ,
            1000.0 * static_cast<double>(count.stock_differ) / static_cast<double>(count.blocks));
        equal = equal && count.differ == 0;
    }
    return equal;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string mode = argc > 2 ? argv[1] : "";
    try {
        if (mode == "record" && argc >= 4) {
            record(argv[2], std::stoll(argv[3]), argc > 4 ? std::stoull(argv[4]) : 1);
            return 0;
        }
        if (mode == "replay" && argc == 3) return replay(argv[2]) ? 0 : 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "recorded_rows: %s\n", error.what());
        return 2;
    }
    std::fprintf(stderr, "recorded_rows record FILE ROWS [SEED] | recorded_rows replay FILE\n");
    return 2;
}
