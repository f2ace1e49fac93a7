#include "bench/cuda_kernel_bench.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bench/cuda_convert.h"
#include "bench/cuda_mat_mul.h"
#include "bench/read_all.h"
#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/device.h"
#include "core/error.h"
#include "core/quantize_rows.h"
#include "cuda/device_grids.h"
#include "cuda/rows_job.h"

namespace apex {
namespace cuda {
namespace {

using Stopped = std::function<bool()>;
using Bytes = std::vector<uint8_t>;

constexpr int kDevice = 0;

Bytes as_bytes(const float* values, int64_t n) {
    const auto* begin = reinterpret_cast<const uint8_t*>(values);
    return Bytes(begin, begin + static_cast<size_t>(n) * sizeof(float));
}

Bytes quantized(ggml_type type, const KernelTile& tile) {
    Bytes stored(static_cast<size_t>(tile.n_rows) * ggml_row_size(type, tile.n_per_row));
    quantize_rows(type, tile.weights, stored.data(), tile.n_rows, tile.n_per_row, tile.imatrix);
    return stored;
}

// ||found - wanted|| / ||wanted||, in double.
double relative_rmse(const std::vector<float>& found, const float* wanted) {
    double error = 0, size = 0;
    for (size_t i = 0; i < found.size(); ++i) {
        const double difference = double{found[i]} - wanted[i];
        error += difference * difference;
        size += double{wanted[i]} * wanted[i];
    }
    return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
}

// A tile repeated over device memory, an output beside it, and a stream to compute on.
class WorkingSet {
  public:
    WorkingSet(const Bytes& tile, size_t output_of_tile, int64_t n_tiles)
        : output_of_tile_(output_of_tile),
          n_tiles_(static_cast<size_t>(n_tiles)),
          input_(tile.size() * n_tiles_),
          output_(output_of_tile * n_tiles_) {
        APEX_CUDA_CALL(cudaMemcpy(input_.as(), tile.data(), tile.size(), cudaMemcpyDefault));
        for (size_t filled = 1; filled < n_tiles_; filled *= 2) {
            const size_t n = std::min(filled, n_tiles_ - filled);
            APEX_CUDA_CALL(cudaMemcpy(input_.as<uint8_t>() + filled * tile.size(), input_.as(),
                                      n * tile.size(), cudaMemcpyDeviceToDevice));
        }
        APEX_CUDA_CALL(cudaMemset(output_.as(), 0xff, output_.size()));
    }

    const void* input() const { return input_.as(); }
    void* output() const { return output_.as(); }
    size_t input_bytes() const { return input_.size(); }
    cudaStream_t stream() const { return stream_.get(); }

    // Times launch(), which goes through the whole set once, until the sample is long enough.
    template <typename Launch>
    KernelSample sample(const Launch& launch, int64_t n_weights, double seconds,
                        const Stopped& stopped) {
        KernelSample sample;
        do {
            if (stopped()) fail<Cancelled>("the benchmark was stopped");
            began_.record(stream_);
            launch();
            ended_.record(stream_);
            ended_.wait();
            float milliseconds = 0;
            APEX_CUDA_CALL(cudaEventElapsedTime(&milliseconds, began_.get(), ended_.get()));
            sample.nanoseconds += std::max<int64_t>(1, std::llround(1e6 * double{milliseconds}));
            sample.n_weights += n_weights;
        } while (static_cast<double>(sample.nanoseconds) < 1e9 * seconds);
        return sample;
    }

    // The first tile's output; Error where the last one's differs.
    Bytes result(const char* what) const {
        Bytes first(output_of_tile_), last(output_of_tile_);
        copy_to_host(first, 0);
        copy_to_host(last, n_tiles_ - 1);
        if (first != last) fail<Error>(what, ": equal tiles came out different");
        return first;
    }

  private:
    void copy_to_host(Bytes& to, size_t tile) const {
        APEX_CUDA_CALL(cudaMemcpy(to.data(), output_.as<uint8_t>() + tile * to.size(), to.size(),
                                  cudaMemcpyDefault));
    }

    size_t output_of_tile_, n_tiles_;
    DeviceBuffer input_, output_;
    Stream stream_;
    Event began_, ended_;
};

class CudaKernelBench final : public KernelBench {
  public:
    CudaKernelBench() {
        list_devices();
        use_device(kDevice);
    }

    bool supports(KernelOperation operation, ggml_type type) const override {
        switch (operation) {
            case KernelOperation::copy:
            case KernelOperation::read:
                return type == GGML_TYPE_F32;
            case KernelOperation::to_float:
            case KernelOperation::to_half:
            case KernelOperation::to_bfloat:
                return is_quantize_target(type) && type != GGML_TYPE_F32 &&
                       can_convert(operation, type);
            case KernelOperation::mat_mul:
                return is_quantize_target(type) && backend_multiplies(kDevice, type);
            case KernelOperation::quantize:
                return has_kernel(type, true);
            default:
                return false;
        }
    }

    KernelResult run(const KernelRequest& request, const KernelTile& tile,
                     const Stopped& stopped) override {
        check(request, tile);
        use_device(kDevice);
        switch (request.operation) {
            case KernelOperation::mat_mul:
                return run_mat_mul(kDevice, request, tile, stopped);
            case KernelOperation::quantize:
                return run_quantize(request, tile, stopped);
            case KernelOperation::copy:
            case KernelOperation::read:
                return run_memory(request, tile, stopped);
            default:
                return run_convert(request, tile, stopped);
        }
    }

  private:
    void check(const KernelRequest& request, const KernelTile& tile) const {
        if (!supports(request.operation, request.type)) {
            fail<InvalidArgument>("the GPU has no such operation for ",
                                  ggml_type_name(request.type));
        }
        if (tile.n_rows < 1 || tile.n_per_row < 1 || request.n_weights < 1 ||
            request.n_weights > INT64_MAX / 64) {
            fail<InvalidArgument>("expected a tile of rows and at least 1 weight, found ",
                                  tile.n_rows, " rows of ", tile.n_per_row, " and ",
                                  request.n_weights);
        }
        check_imatrix("tile", tile.imatrix, tile.n_per_row, 1);
        row_bytes(request.type, tile.n_per_row);
        if (request.repetitions < 1 || !(request.sample_seconds > 0) ||
            request.sample_seconds > 3600) {
            fail<InvalidArgument>("expected at least 1 repetition of 0 to 3600 seconds, found ",
                                  request.repetitions, " of ", request.sample_seconds);
        }
    }

    static int64_t tiles_of(const KernelRequest& request, const KernelTile& tile) {
        const int64_t per_tile = tile.n_rows * tile.n_per_row;
        return (request.n_weights + per_tile - 1) / per_tile;
    }

    template <typename Launch>
    static KernelResult measure(const KernelRequest& request, const KernelTile& tile,
                                WorkingSet& set, const Launch& launch, const Stopped& stopped) {
        KernelResult result;
        result.n_weights = tiles_of(request, tile) * tile.n_rows * tile.n_per_row;
        result.bytes_per_weight = moved_bytes(request.operation, request.type);
        result.relative_error = 0;
        set.sample(launch, result.n_weights, request.sample_seconds / 2, stopped);  // to warm up
        for (int i = 0; i < request.repetitions; ++i) {
            result.samples.push_back(
                set.sample(launch, result.n_weights, request.sample_seconds, stopped));
        }
        return result;
    }

    static KernelResult run_memory(const KernelRequest& request, const KernelTile& tile,
                                   const Stopped& stopped) {
        const Bytes floats = as_bytes(tile.weights, tile.n_rows * tile.n_per_row);
        WorkingSet set(floats, floats.size(), tiles_of(request, tile));
        if (request.operation == KernelOperation::copy) {
            const auto copy = [&] {
                APEX_CUDA_CALL(cudaMemcpyAsync(set.output(), set.input(), set.input_bytes(),
                                               cudaMemcpyDeviceToDevice, set.stream()));
            };
            KernelResult result = measure(request, tile, set, copy, stopped);
            if (set.result("copy") != floats) fail<Error>("a copy by the GPU differs");
            return result;
        }
        const DeviceBuffer sums(kReadBlocks * sizeof(uint32_t));
        const auto read = [&] {
            constexpr int64_t kWord = 16;
            APEX_CUDA_CALL(launch_read(set.input(), static_cast<int64_t>(set.input_bytes()) / kWord,
                                       sums.as<uint32_t>(), set.stream()));
        };
        KernelResult result = measure(request, tile, set, read, stopped);
        check_sums(sums, floats, static_cast<uint32_t>(tiles_of(request, tile)));
        return result;
    }

    static void check_sums(const DeviceBuffer& sums, const Bytes& tile, uint32_t n_tiles) {
        std::vector<uint32_t> found(kReadBlocks), words(tile.size() / sizeof(uint32_t));
        APEX_CUDA_CALL(cudaMemcpy(found.data(), sums.as(), sums.size(), cudaMemcpyDefault));
        std::memcpy(words.data(), tile.data(), tile.size());
        uint32_t sum = 0, wanted = 0;
        for (const uint32_t part : found) sum += part;
        for (const uint32_t word : words) wanted += word;
        if (sum != wanted * n_tiles) fail<Error>("what the GPU read adds up to another sum");
    }

    // What comes out is compared with the weights; Python knows how near each type comes.
    static KernelResult run_convert(const KernelRequest& request, const KernelTile& tile,
                                    const Stopped& stopped) {
        const int64_t n = tile.n_rows * tile.n_per_row, n_tiles = tiles_of(request, tile);
        const bool is_float = request.operation == KernelOperation::to_float;
        const size_t width = is_float ? sizeof(float) : sizeof(uint16_t);
        WorkingSet set(quantized(request.type, tile), static_cast<size_t>(n) * width, n_tiles);
        const auto convert = [&] {
            launch_convert(request.operation, request.type, set.input(), set.output(), n * n_tiles,
                           set.stream());
            APEX_CUDA_CALL(cudaGetLastError());
        };
        KernelResult result = measure(request, tile, set, convert, stopped);
        const Bytes found = set.result(ggml_type_name(request.type));
        std::vector<float> values(static_cast<size_t>(n));
        const ggml_type made = is_float                                        ? GGML_TYPE_F32
                               : request.operation == KernelOperation::to_half ? GGML_TYPE_F16
                                                                               : GGML_TYPE_BF16;
        convert_to_float(made, found.data(), values.data(), n);
        result.relative_error = relative_rmse(values, tile.weights);
        return result;
    }

    static KernelResult run_quantize(const KernelRequest& request, const KernelTile& tile,
                                     const Stopped& stopped) {
        const int64_t n = tile.n_rows * tile.n_per_row, n_tiles = tiles_of(request, tile);
        const Bytes wanted = quantized(request.type, tile);
        WorkingSet set(as_bytes(tile.weights, n), wanted.size(), n_tiles);
        const DeviceGrids grids({request.type});
        const DeviceBuffer imatrix(static_cast<size_t>(tile.n_per_row) * sizeof(float));
        const DeviceBuffer flags(static_cast<size_t>(tile.n_rows * n_tiles));
        APEX_CUDA_CALL(cudaMemcpy(imatrix.as(), tile.imatrix, imatrix.size(), cudaMemcpyDefault));
        APEX_CUDA_CALL(cudaMemset(flags.as(), 0, flags.size()));
        RowsJob job;
        job.src = set.input();
        job.imatrix = imatrix.as<float>();
        job.dst = set.output();
        job.n_blocks = n * n_tiles / ggml_blck_size(request.type);
        job.blocks_per_row = tile.n_per_row / ggml_blck_size(request.type);
        job.overflowed = flags.as<uint8_t>();
        job.grid = grids.of(request.type);
        const auto launch = [&] {
            APEX_CUDA_CALL(launch_rows(request.type, true, job, set.stream()));
        };
        KernelResult result = measure(request, tile, set, launch, stopped);
        if (set.result(ggml_type_name(request.type)) != wanted) {
            fail<Error>(ggml_type_name(request.type), ": the GPU's bytes are not the CPU's");
        }
        std::vector<float> values(static_cast<size_t>(n));
        convert_to_float(request.type, wanted.data(), values.data(), n);
        result.relative_error = relative_rmse(values, tile.weights);
        return result;
    }
};

}  // namespace
}  // namespace cuda

std::unique_ptr<KernelBench> cuda_kernel_bench() {
    return std::make_unique<cuda::CudaKernelBench>();
}

}  // namespace apex
