// The core without Python, for the sanitizers: tests/test_sanitizers.py builds and runs it.
//
//   core_test parse FOLDER      opens every file of a folder; prints its name and what was wrong
//   core_test quantize MODEL    writes MODEL in every type with 1 and 3 threads; the bytes must
//   agree core_test rows              reads random blocks and writes hard weights, in every type
//   core_test jobs MODEL        jobs that are stopped, destroyed, refused, or fail
//   core_test err KIND          does what a sanitizer must report: leak, overrun, undefined
//
// Exit status 0 if all went as it must; a message and 1 otherwise.
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/error.h"
#include "core/gguf_file.h"
#include "core/quantize_rows.h"
#include "core/quantizer.h"
#include "core/weight_statistics.h"

namespace {

using namespace apex;

void require(bool condition, const std::string& what) {
    if (!condition) throw std::runtime_error("failed: " + what);
}

// A file without a name, gone when closed.
class TemporaryFile {
  public:
    TemporaryFile() : file_(std::tmpfile()) { require(file_ != nullptr, "tmpfile"); }
    ~TemporaryFile() { std::fclose(file_); }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    int descriptor() const { return fileno(file_); }
    std::string content() const {
        struct stat info{};
        require(::fstat(descriptor(), &info) == 0, "fstat");
        std::string bytes(static_cast<size_t>(info.st_size), '\0');
        require(::pread(descriptor(), bytes.data(), bytes.size(), 0) == info.st_size, "pread");
        return bytes;
    }

  private:
    std::FILE* file_;
};

std::vector<ggml_type> types_where(const std::function<bool(ggml_type)>& condition) {
    std::vector<ggml_type> types;
    for (uint32_t number = 0; number < GGML_TYPE_COUNT; ++number) {
        const auto type = static_cast<ggml_type>(number);
        if (is_known_type(number) && condition(type)) types.push_back(type);
    }
    return types;
}

StoredTensor stored_tensor(const GgufFile& model, size_t index) {
    return model.stored_tensor(model.tensors()[index]);
}

// All tensors of a model in one type, one after the other in the output. Owns the matrices.
struct Tasks {
    std::vector<std::unique_ptr<std::vector<float>>> matrices;
    std::vector<QuantizeTask> list;

    Tasks(const GgufFile& model, ggml_type type, int output, int repeats = 1) {
        uint64_t offset = 0;
        for (int repeat = 0; repeat < repeats; ++repeat) {
            for (size_t i = 0; i < model.tensors().size(); ++i) {
                QuantizeTask task;
                task.source = stored_tensor(model, i);
                task.target_type = type;
                task.output_fd = output;
                task.output_offset = offset;
                const TensorRows& rows = task.source.rows;
                matrices.push_back(
                    std::make_unique<std::vector<float>>(rows.n_per_row * rows.n_slices));
                for (size_t k = 0; k < matrices.back()->size(); ++k) {
                    (*matrices.back())[k] = 0.25f + static_cast<float>(k % 7);
                }
                task.imatrix = matrices.back()->data();
                offset += row_bytes(type, rows.n_per_row) * static_cast<uint64_t>(rows.n_rows());
                list.push_back(task);
            }
        }
    }
};

std::vector<TensorDone> finish(Quantizer& quantizer) {
    std::vector<TensorDone> all;
    while (!quantizer.finished()) {
        for (const TensorDone& done : quantizer.wait(60000)) all.push_back(done);
    }
    return all;
}

// --- parse -------------------------------------------------------------------------------------

void touch_everything(const GgufFile& file) {
    uint64_t sum = 0;
    for (const ShardTensor& tensor : file.tensors()) {
        if (!file.has_data()) break;
        const uint8_t* data = file.tensor_data(tensor);
        for (uint64_t i = 0; i < tensor.entry.n_bytes; ++i) sum += data[i];
    }
    for (const GgufKeyValue& pair : file.header().key_values) {
        require(pair.end > pair.begin, "an empty pair");
        sum += file.shard_file(0).data()[pair.end - 1];
    }
    std::vector<StoredTensor> readable;
    for (size_t i = 0; i < file.tensors().size() && file.has_data(); ++i) {
        if (is_readable_source(file.tensors()[i].entry.type)) {
            readable.push_back(stored_tensor(file, i));
        }
    }
    const std::atomic<bool> cancelled{false};
    weight_statistics(readable, 2, cancelled);
    if (!file.missing_data().empty()) {
        std::printf("refused: %s\n", file.missing_data().c_str());
        return;
    }
    std::printf("ok, %zu tensors, sum %llu\n", file.tensors().size(),
                static_cast<unsigned long long>(sum));
}

void parse_folder(const std::string& folder) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        const std::string path = entry.path().string();
        std::printf("%s: ", entry.path().filename().c_str());
        try {
            touch_everything(GgufFile(path));
        } catch (const GgufError& error) {
            require(std::strstr(error.what(), path.c_str()) != nullptr, "the error names the file");
            std::printf("refused: %s\n", error.what());
        } catch (const QuantizeError& error) {
            std::printf("not finite: %s\n", error.what());
        }
    }
}

// --- quantize ----------------------------------------------------------------------------------

void quantize_model(const std::string& path) {
    const GgufFile model(path);
    for (const ggml_type type : types_where(is_quantize_target)) {
        std::string bytes[2];
        double errors[2] = {0, 0};
        for (int run = 0; run < 2; ++run) {
            const TemporaryFile output;
            Tasks tasks(model, type, output.descriptor());
            QuantizeOptions options;
            options.n_threads = run == 0 ? 1 : 3;
            Quantizer quantizer(tasks.list, options);
            const auto done = finish(quantizer);
            require(done.size() == model.tensors().size(), "every tensor is reported once");
            for (const TensorDone& tensor : done) {
                errors[run] += tensor.squared_error;
                require(std::isfinite(tensor.squared_error), "a finite error");
            }
            bytes[run] = output.content();
        }
        require(!bytes[0].empty() && bytes[0] == bytes[1],
                concat(ggml_type_name(type), ": 1 and 3 threads write the same"));
        std::printf("%s: %zu bytes, squared error %g\n", ggml_type_name(type), bytes[0].size(),
                    errors[0]);
    }
}

// --- rows --------------------------------------------------------------------------------------

constexpr int64_t kRow = 512;
constexpr int64_t kRows = 3;

void read_random_blocks(std::mt19937& random) {
    for (const ggml_type type : types_where(is_readable_source)) {
        std::vector<uint8_t> stored(row_bytes(type, kRow) * kRows);
        std::vector<float> weights(kRow * kRows);
        for (int round = 0; round < 20; ++round) {
            for (uint8_t& byte : stored) byte = static_cast<uint8_t>(random());
            convert_to_float(type, stored.data(), weights.data(), kRow * kRows);
        }
    }
}

using MakeWeight = std::function<float(std::mt19937&, int64_t)>;

void write_hard_weights(std::mt19937& random) {
    std::normal_distribution<float> gaussian;
    const std::vector<MakeWeight> weight_kinds = {
        [&](std::mt19937& r, int64_t) { return gaussian(r); },
        [&](std::mt19937& r, int64_t) { return 1e-40f * gaussian(r); },
        [](std::mt19937&, int64_t) { return -0.0f; },
        [](std::mt19937&, int64_t) { return 0.1f; },
        [&](std::mt19937& r, int64_t) { return 1e6f * gaussian(r); },
        [](std::mt19937&, int64_t) { return 1e30f; },
        [](std::mt19937&, int64_t i) { return i % 2 == 0 ? 3.4e38f : -3.4e38f; },
        [&](std::mt19937& r, int64_t i) { return i == 7 ? 1e30f : gaussian(r); },
    };
    const std::vector<MakeWeight> matrix_kinds = {
        [](std::mt19937&, int64_t) { return 1.0f; },
        [](std::mt19937&, int64_t) { return 0.0f; },
        [](std::mt19937&, int64_t i) { return i == 3 ? 1.0f : 0.0f; },
        [](std::mt19937&, int64_t) { return 1e-42f; },
        [](std::mt19937&, int64_t) { return 3e38f; },
    };
    int n_written = 0, n_refused = 0;
    for (const ggml_type type : types_where(is_quantize_target)) {
        std::vector<float> weights(kRow * kRows), matrix(kRow), restored(kRow * kRows);
        std::vector<uint8_t> stored(row_bytes(type, kRow) * kRows);
        for (const MakeWeight& weight : weight_kinds) {
            for (const MakeWeight& importance : matrix_kinds) {
                for (int64_t i = 0; i < kRow * kRows; ++i) weights[i] = weight(random, i % kRow);
                for (int64_t i = 0; i < kRow; ++i) matrix[i] = importance(random, i);
                try {
                    quantize_rows(type, weights.data(), stored.data(), kRows, kRow, matrix.data());
                    convert_to_float(type, stored.data(), restored.data(), kRow * kRows);
                    ++n_written;
                } catch (const QuantizeError&) {
                    ++n_refused;
                }
            }
        }
    }
    std::printf("hard weights: %d written, %d refused\n", n_written, n_refused);
    require(n_written > 0 && n_refused > 0, "some hard weights are written, some refused");
}

// --- jobs --------------------------------------------------------------------------------------

template <class E>
void require_error(const char* word, const std::function<void()>& work) {
    try {
        work();
    } catch (const E& error) {
        require(std::strstr(error.what(), word) != nullptr,
                concat("'", word, "' in '", error.what(), "'"));
        return;
    }
    require(false, concat("an error with '", word, "'"));
}

void stop_and_destroy(const GgufFile& model) {
    for (int round = 0; round < 6; ++round) {
        const TemporaryFile output;
        Tasks tasks(model, GGML_TYPE_Q4_1, output.descriptor(), 50);
        QuantizeOptions options;
        options.n_threads = 3;
        Quantizer quantizer(tasks.list, options);
        if (round % 3 > 0) quantizer.wait(1);
        if (round % 2 == 0) continue;  // the destructor stops it
        quantizer.stop();
        const std::string left = output.content();
        quantizer.wait(0);
        require(output.content() == left, "nothing is written after stop()");
    }
}

void refused_and_failing(const GgufFile& model, const std::string& path) {
    const TemporaryFile output;
    const auto run = [&](ggml_type type, int descriptor, QuantizeOptions options = {}) {
        Tasks tasks(model, type, descriptor);
        Quantizer quantizer(tasks.list, options);
        finish(quantizer);
    };
    const int fd = output.descriptor();
    require_error<OutputError>("Bad file descriptor", [&] { run(GGML_TYPE_Q8_0, -1); });
    require_error<InvalidArgument>("no quantizer", [&] { run(GGML_TYPE_Q8_K, fd); });
    require_error<InvalidArgument>("n_threads is 0",
                                   [&] { run(GGML_TYPE_Q8_0, fd, {0, 1u << 30}); });
    require_error<InvalidArgument>("max_memory is 1 ", [&] { run(GGML_TYPE_Q8_0, fd, {1, 1}); });
    require_error<ImatrixError>("needs an importance matrix", [&] {
        Tasks tasks(model, GGML_TYPE_IQ1_S, fd);
        tasks.list[0].imatrix = nullptr;
        Quantizer quantizer(tasks.list, {});
    });
    require_error<ImatrixError>("holds -1, expected a finite value", [&] {
        Tasks tasks(model, GGML_TYPE_Q4_K, fd);
        tasks.matrices[0]->at(5) = -1.0f;
        Quantizer quantizer(tasks.list, {});
    });
    require_error<Cancelled>("stopped", [&] {
        const std::atomic<bool> cancelled{true};
        weight_statistics({stored_tensor(model, 0)}, 2, cancelled);
    });
    require_error<GgufError>("truncated while being read", [&] {
        const auto half = std::filesystem::file_size(path) / 2;
        std::filesystem::resize_file(path, half);
        run(GGML_TYPE_Q8_0, fd, {3, 1u << 30});
    });
}

void run_jobs(const std::string& path) {
    // Its own copy, because the last case cuts it.
    const std::string copy = path + ".copy";
    std::filesystem::copy_file(path, copy, std::filesystem::copy_options::overwrite_existing);
    const GgufFile model(copy);
    stop_and_destroy(model);
    refused_and_failing(model, copy);
    std::filesystem::remove(copy);
    std::printf("jobs: as they must\n");
}

// --- err ---------------------------------------------------------------------------------------

// What a run without a report proves depends on the sanitizers being there.
void err(const std::string& kind) {
    const volatile int four = 4;
    if (kind == "leak") {
        const char* volatile lost = new char[100];
        std::printf("%p\n", static_cast<const void*>(lost));
    } else if (kind == "overrun") {
        const std::vector<int> values(four);
        std::printf("%d\n", values.data()[four]);
    } else if (kind == "undefined") {
        std::printf("%d\n", INT32_MAX - 3 + four);
    }
}

int run(const std::vector<std::string>& arguments) {
    const std::string command = arguments.empty() ? "" : arguments[0];
    std::mt19937 random(1);
    if (command == "parse" && arguments.size() == 2) {
        parse_folder(arguments[1]);
    } else if (command == "quantize" && arguments.size() == 2) {
        quantize_model(arguments[1]);
    } else if (command == "rows") {
        read_random_blocks(random);
        write_hard_weights(random);
    } else if (command == "jobs" && arguments.size() == 2) {
        run_jobs(arguments[1]);
    } else if (command == "err" && arguments.size() == 2) {
        err(arguments[1]);
    } else {
        throw std::runtime_error("usage: core_test parse|quantize|rows|jobs|err [ARGUMENT]");
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run({argv + 1, argv + argc});
    } catch (const std::exception& error) {
        std::fprintf(stderr, "core_test: %s\n", error.what());
        return 1;
    }
}
