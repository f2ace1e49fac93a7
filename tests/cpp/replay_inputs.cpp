// Runs a fuzz target without a fuzzer.
//
//   fuzz_kernels FILE...                  the stored inputs, one by one
//   fuzz_kernels --random COUNT [SEED]    COUNT seeded random inputs
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

// Mostly short: the target repeats a short input, which gives periodic data with many ties.
std::vector<uint8_t> random_input(std::mt19937_64& random) {
    const size_t longest = random() % 4 == 0 ? 4096 : 64;
    std::vector<uint8_t> bytes(8 + random() % longest);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    return bytes;
}

bool run_file(const char* path) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    if (!file.is_open() || file.bad()) {
        std::fprintf(stderr, "cannot read %s\n", path);
        return false;
    }
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s FILE... | --random COUNT [SEED]\n", argv[0]);
        return 2;
    }
    if (std::strcmp(argv[1], "--random") == 0) {
        const long count = argc > 2 ? std::atol(argv[2]) : 1000;
        std::mt19937_64 random(argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
        for (long i = 0; i < count; ++i) {
            const std::vector<uint8_t> input = random_input(random);
            LLVMFuzzerTestOneInput(input.data(), input.size());
        }
        std::printf("%ld random inputs, no difference\n", count);
        return 0;
    }
    for (int i = 1; i < argc; ++i) {
        if (!run_file(argv[i])) return 2;
    }
    std::printf("%d inputs, no difference\n", argc - 1);
    return 0;
}
