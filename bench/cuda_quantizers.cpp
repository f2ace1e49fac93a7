// The GPU's quantizers against ggml's on the CPU: the same bytes, and how fast.
//
//   cuda_quantizers [--types q4_K,iq2_s] [--sources F32,BF16] [--check-weights 4000000] [--threads
//   16] [--weights 64]
//                   [--repeats 7] [--seed 1] [--jsonl FILE]
//
// First, for every type, matrix setting and source type (F32, F16, BF16), at least --check-weights
// weights of awkward rows (tests/cpp/awkward_rows.h) go through ggml_quantize_chunk on --threads
// CPU threads and through the kernel; every byte is compared, and every row's error sums, except
// rows the kernel hands back to the CPU, which are counted. Then each kernel alone is timed with
// CUDA events on --weights Mi Gaussian weights, buffers that exceed the L2 cache several times:
// weights per second, median, lowest and highest of --repeats runs after one that warms up.
// --check-weights 0 or --weights 0 leaves that half out. One line per case, and the same as JSON
// lines in --jsonl. Exit code 1 if a byte differs.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "awkward_rows.h"
#include "core/row_error.h"
#include "cuda/device_grids.h"
#include "cuda/portable.cuh"
#include "cuda/row_errors.h"
#include "cuda/runtime.h"

namespace {

using namespace apex::tests;
using namespace apex::cuda;

constexpr Source kSources[] = {Source::f32, Source::f16, Source::bf16};
const char* const kSourceNames[] = {"F32", "F16", "BF16"};

struct Options {
    std::vector<ggml_type> types;
    std::vector<Source> sources;
    int64_t check_weights = 4000000;
    int threads = 16;
    int64_t weights = 64;
    int repeats = 7;
    uint64_t seed = 1;
    FILE* jsonl = nullptr;
};

[[noreturn]] void usage(const std::string& problem) {
    std::fprintf(stderr, "cuda_quantizers: %s\n", problem.c_str());
    std::exit(2);
}

const char* source_name(Source source) {
    return kSourceNames[static_cast<int>(source)];
}

std::vector<std::string> split(const std::string& list) {
    std::vector<std::string> parts;
    std::stringstream stream(list);
    for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
    return parts;
}

Options parse(int argc, char** argv) {
    Options options;
    if (argc % 2 == 0) usage("expected pairs of option and value");
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string key = argv[i], text = argv[i + 1];
        if (key == "--types") {
            for (const std::string& name : split(text)) {
                for (ggml_type type : all_types()) {
                    if (name == ggml_type_name(type)) options.types.push_back(type);
                }
            }
        } else if (key == "--sources") {
            for (const std::string& name : split(text)) {
                for (Source source : kSources) {
                    if (name == source_name(source)) options.sources.push_back(source);
                }
            }
        } else if (key == "--check-weights") {
            options.check_weights = std::stoll(text);
        } else if (key == "--threads") {
            options.threads = std::stoi(text);
        } else if (key == "--weights") {
            options.weights = std::stoll(text);
        } else if (key == "--repeats") {
            options.repeats = std::stoi(text);
        } else if (key == "--seed") {
            options.seed = std::stoull(text);
        } else if (key == "--jsonl") {
            options.jsonl = std::fopen(text.c_str(), "w");
        } else {
            usage("unknown option: " + key);
        }
    }
    if (options.types.empty()) options.types = all_types();
    if (options.sources.empty()) options.sources.assign(std::begin(kSources), std::end(kSources));
    return options;
}

DeviceBuffer uploaded(const void* data, size_t bytes) {
    DeviceBuffer buffer(bytes);
    APEX_CUDA_CALL(cudaMemcpy(buffer.as<>(), data, bytes, cudaMemcpyHostToDevice));
    return buffer;
}

// Rounds rows to a source type (what F16 cannot hold becomes its largest number) and gives the
// bytes a file would store.
std::vector<uint8_t> store_as(Source source, std::vector<float>& rows) {
    if (source == Source::f32) {
        const auto* bytes = reinterpret_cast<const uint8_t*>(rows.data());
        return {bytes, bytes + rows.size() * sizeof(float)};
    }
    std::vector<uint8_t> bytes(rows.size() * 2);
    auto* to = reinterpret_cast<uint16_t*>(bytes.data());
    for (size_t i = 0; i < rows.size(); ++i) {
        if (source == Source::f16) {
            to[i] = half_of(std::clamp(rows[i], -65504.0f, 65504.0f));
            rows[i] = float_of_half(to[i]);
        } else {
            rows[i] = to_bf16(rows[i]);
            to[i] = static_cast<uint16_t>(static_cast<uint32_t>(bits_of(rows[i])) >> 16);
        }
    }
    return bytes;
}

struct Counts {
    std::atomic<int64_t> weights{0}, rows{0}, handed_back{0}, differ{0}, errors_differ{0};
};

// The device's errors of rows against those the CPU sums of ggml's blocks. Rows whose scales
// overflowed have none.
void compare_errors(const Chunk& chunk, const std::vector<uint8_t>& overflowed,
                    const DeviceBuffer& on_device, Counts& counts) {
    const auto n_rows = static_cast<size_t>(chunk.nrows);
    const auto width = static_cast<size_t>(chunk.width);
    std::vector<apex::RowError> errors(n_rows);
    APEX_CUDA_CALL(cudaMemcpy(errors.data(), on_device.as<>(), n_rows * sizeof(errors[0]),
                              cudaMemcpyDeviceToHost));
    std::vector<float> restored(n_rows * width);
    ggml_get_type_traits(chunk.type)
        ->to_float(chunk.stock.data(), restored.data(), chunk.nrows * chunk.width);
    for (size_t row = 0; row < n_rows; ++row) {
        const apex::RowError expected = apex::row_error(chunk.rows.data() + row * width,
                                                        restored.data() + row * width, chunk.width);
        if (overflowed[row] != 0 || !std::isfinite(expected.squared_error)) continue;
        if (errors[row].squared_error != expected.squared_error ||
            errors[row].squared_weights != expected.squared_weights) {
            ++counts.errors_differ;
        }
    }
}

void compare_chunk(Chunk& chunk, Source source, const DeviceGrids& grids, Stream& stream,
                   uint64_t seed, Counts& counts) {
    static std::mutex printing;
    const std::vector<uint8_t> stored = store_as(source, chunk.rows);
    ggml_quantize_chunk(chunk.type, chunk.rows.data(), chunk.stock.data(), 0, chunk.nrows,
                        chunk.width, chunk.imatrix());
    const auto n_rows = static_cast<size_t>(chunk.nrows);
    const DeviceBuffer src = uploaded(stored.data(), stored.size());
    const DeviceBuffer matrix = uploaded(chunk.matrix.data(), chunk.matrix.size() * 4);
    // Another fill than ggml's, so that a byte neither writes shows up as a difference too.
    std::vector<uint8_t> own(chunk.stock.size(), 0x55), overflowed(n_rows, 0);
    const DeviceBuffer dst = uploaded(own.data(), own.size());
    const DeviceBuffer flags = uploaded(overflowed.data(), n_rows);
    RowsJob job;
    job.src = src.as<>();
    job.source = source;
    job.imatrix = matrix.as<float>();
    job.dst = dst.as<>();
    job.blocks_per_row = chunk.width / ggml_blck_size(chunk.type);
    job.n_blocks = job.blocks_per_row * chunk.nrows;
    job.overflowed = flags.as<uint8_t>();
    job.grid = grids.of(chunk.type);
    APEX_CUDA_CALL(launch_rows(chunk.type, chunk.imatrix() != nullptr, job, stream.get()));
    const DeviceBuffer errors(n_rows * sizeof(apex::RowError));
    APEX_CUDA_CALL(launch_row_errors(chunk.type, job, errors.as<apex::RowError>(), stream.get()));
    stream.wait();
    APEX_CUDA_CALL(cudaMemcpy(own.data(), dst.as<>(), own.size(), cudaMemcpyDeviceToHost));
    APEX_CUDA_CALL(cudaMemcpy(overflowed.data(), flags.as<>(), n_rows, cudaMemcpyDeviceToHost));
    compare_errors(chunk, overflowed, errors, counts);
    counts.weights += chunk.nrows * chunk.width;
    counts.rows += chunk.nrows;
    const size_t row_size = chunk.row_size();
    for (int64_t row = 0; row < chunk.nrows; ++row) {
        const size_t offset = static_cast<size_t>(row) * row_size;
        if (overflowed[static_cast<size_t>(row)] != 0) {
            ++counts.handed_back;
        } else if (std::memcmp(own.data() + offset, chunk.stock.data() + offset, row_size) != 0) {
            const std::lock_guard<std::mutex> lock(printing);
            if (counts.differ++ < 2) {
                print_difference(chunk, source_name(source), row, chunk.stock.data() + offset,
                                 own.data() + offset, seed);
            }
        }
    }
}

// True if all bytes are equal.
bool check_case(ggml_type type, bool with_imatrix, Source source, const DeviceGrids& grids,
                const Options& options) {
    Counts counts;
    const auto work = [&](int thread) {
        Stream stream;
        const uint64_t seed = options.seed * 7919 + static_cast<uint64_t>(thread);
        Random r(seed * 1000003 + static_cast<uint64_t>(type) * 2 + with_imatrix);
        for (int kind = thread; counts.weights < options.check_weights; ++kind) {
            const auto data = static_cast<Data>(kind % static_cast<int>(Data::count));
            Chunk chunk = make_rows(type, data, with_imatrix, r);
            compare_chunk(chunk, source, grids, stream, seed, counts);
        }
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < options.threads; ++i) threads.emplace_back(work, i);
    for (std::thread& thread : threads) thread.join();
    std::printf("%-8s %-9s %-4s rows %7lld  handed back %5lld  differ %lld  errors differ %lld\n",
                ggml_type_name(type), with_imatrix ? "matrix" : "no matrix", source_name(source),
                (long long)counts.rows, (long long)counts.handed_back, (long long)counts.differ,
                (long long)counts.errors_differ);
    std::fflush(stdout);
    if (options.jsonl) {
        std::fprintf(options.jsonl,
                     "{\"check\": \"bytes\", \"type\": \"%s\", \"matrix\": %s, \"source\": \"%s\", "
                     "\"rows\": %lld, \"weights\": %lld, \"handed_back\": %lld, \"differ\": "
                     "%lld, \"errors_differ\": %lld}\n",
                     ggml_type_name(type), with_imatrix ? "true" : "false", source_name(source),
                     (long long)counts.rows, (long long)counts.weights,
                     (long long)counts.handed_back, (long long)counts.differ,
                     (long long)counts.errors_differ);
    }
    return counts.differ == 0 && counts.errors_differ == 0;
}

// Gaussian rows, repeated: 4 Mi weights are drawn, each copy starts at another row.
struct TimedRows {
    static constexpr int64_t kWidth = 2048;
    static constexpr int64_t kDrawn = int64_t{4} << 20;
    int64_t n_weights;
    std::vector<float> drawn;
    std::vector<float> matrix;

    explicit TimedRows(const Options& options) : n_weights(options.weights << 20) {
        Random r(options.seed);
        drawn.resize(kDrawn);
        for (float& x : drawn) x = 0.02f * gaussian(r);
        matrix.resize(kWidth);
        for (float& m : matrix) m = std::exp(gaussian(r));
    }

    DeviceBuffer on_device(Source source) const {
        std::vector<float> rounded = drawn;
        const std::vector<uint8_t> bytes = store_as(source, rounded);
        const size_t per_copy = bytes.size();
        const auto copies = static_cast<size_t>(n_weights / kDrawn);
        DeviceBuffer buffer(per_copy * copies);
        for (size_t i = 0; i < copies; ++i) {
            APEX_CUDA_CALL(cudaMemcpy(buffer.as<uint8_t>() + i * per_copy, bytes.data(), per_copy,
                                      cudaMemcpyHostToDevice));
        }
        return buffer;
    }
};

void time_case(ggml_type type, bool with_imatrix, Source source, const TimedRows& rows,
               const DeviceBuffer& src, const DeviceGrids& grids, const Options& options) {
    const DeviceBuffer matrix = uploaded(rows.matrix.data(), rows.matrix.size() * 4);
    const auto n_rows = static_cast<size_t>(rows.n_weights / TimedRows::kWidth);
    const DeviceBuffer dst(n_rows * ggml_row_size(type, TimedRows::kWidth));
    const DeviceBuffer flags(n_rows);
    APEX_CUDA_CALL(cudaMemset(flags.as<>(), 0, n_rows));
    RowsJob job;
    job.src = src.as<>();
    job.source = source;
    job.imatrix = matrix.as<float>();
    job.dst = dst.as<>();
    job.blocks_per_row = TimedRows::kWidth / ggml_blck_size(type);
    job.n_blocks = job.blocks_per_row * static_cast<int64_t>(n_rows);
    job.overflowed = flags.as<uint8_t>();
    job.grid = grids.of(type);
    Stream stream;
    const Event start, stop;
    std::vector<double> rates;
    for (int i = 0; i <= options.repeats; ++i) {
        start.record(stream);
        APEX_CUDA_CALL(launch_rows(type, with_imatrix, job, stream.get()));
        stop.record(stream);
        stop.wait();
        float ms = 0.0f;
        APEX_CUDA_CALL(cudaEventElapsedTime(&ms, start.get(), stop.get()));
        if (i > 0) rates.push_back(static_cast<double>(rows.n_weights) / ms * 1e-6);
    }
    std::sort(rates.begin(), rates.end());
    const double median = rates[rates.size() / 2];
    std::printf("%-8s %-9s %-4s %8.2f G weights/s  (%.2f to %.2f)\n", ggml_type_name(type),
                with_imatrix ? "matrix" : "no matrix", source_name(source), median, rates.front(),
                rates.back());
    std::fflush(stdout);
    if (options.jsonl) {
        std::fprintf(options.jsonl,
                     "{\"check\": \"speed\", \"type\": \"%s\", \"matrix\": %s, \"source\": \"%s\", "
                     "\"weights\": %lld, \"runs\": %zu, \"median_gweights_per_s\": %.4f, "
                     "\"lowest\": %.4f, \"highest\": %.4f}\n",
                     ggml_type_name(type), with_imatrix ? "true" : "false", source_name(source),
                     (long long)rows.n_weights, rates.size(), median, rates.front(), rates.back());
    }
}

bool check_all(const Options& options) {
    bool equal = true;
    for (ggml_type type : options.types) {
        ggml_quantize_init(type);
        const DeviceGrids grids({type});
        for (bool with_imatrix : {true, false}) {
            if (!has_kernel(type, with_imatrix)) continue;
            for (Source source : options.sources) {
                equal = check_case(type, with_imatrix, source, grids, options) && equal;
            }
        }
    }
    return equal;
}

void time_all(const Options& options) {
    const TimedRows rows(options);
    for (Source source : options.sources) {
        const DeviceBuffer src = rows.on_device(source);
        for (ggml_type type : options.types) {
            const DeviceGrids grids({type});
            for (bool with_imatrix : {true, false}) {
                if (!has_kernel(type, with_imatrix)) continue;
                time_case(type, with_imatrix, source, rows, src, grids, options);
            }
        }
    }
}

void print_device() {
    cudaDeviceProp properties;
    APEX_CUDA_CALL(cudaGetDeviceProperties(&properties, 0));
    int runtime = 0, driver = 0;
    APEX_CUDA_CALL(cudaRuntimeGetVersion(&runtime));
    APEX_CUDA_CALL(cudaDriverGetVersion(&driver));
    std::printf("%s, compute %d.%d, %d multiprocessors, L2 %d MiB, CUDA runtime %d driver %d\n",
                properties.name, properties.major, properties.minor, properties.multiProcessorCount,
                properties.l2CacheSize >> 20, runtime, driver);
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    bool equal = true;
    try {
        print_device();
        if (options.check_weights > 0) equal = check_all(options);
        if (options.weights > 0) time_all(options);
    } catch (const apex::DeviceError& error) {
        std::fprintf(stderr, "cuda_quantizers: %s\n", error.what());
        equal = false;
    }
    if (options.jsonl) std::fclose(options.jsonl);
    return equal ? 0 : 1;
}
