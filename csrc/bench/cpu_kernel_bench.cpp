#include "bench/cpu_kernel_bench.h"

#include <algorithm>
#include <cstring>

#include "bench/row_kernels.h"
#include "bench/timed_rows.h"
#include "core/checks.h"
#include "core/error.h"
#include "core/quantize_rows.h"
#include "core/row_error.h"
#include "ggml-cpu.h"

namespace apex {
namespace {

using Stopped = std::function<bool()>;

// Rows between two looks at the clock: 64 Ki weights of 4096 are some microseconds of a streaming
// kernel, one row is some milliseconds of a slow quantizer.
constexpr int64_t kStreamingUnit = 16;
constexpr int64_t kQuantizingUnit = 1;

// Memory whose pages belong to whoever writes them first.
class Buffer {
  public:
    explicit Buffer(size_t size) : data_(new uint8_t[std::max<size_t>(size, 1)]) {}
    uint8_t* data() { return data_.get(); }
    const uint8_t* data() const { return data_.get(); }

  private:
    std::unique_ptr<uint8_t[]> data_;
};

// Tiles over a working set, computed by timed threads; what they wrote is compared with the tile.
class TiledRun {
  public:
    TiledRun(const RowKernel& kernel, const KernelTile& tile, int64_t n_rows, int64_t unit,
             int n_threads)
        : kernel_(kernel),
          tile_rows_(tile.n_rows),
          n_rows_(n_rows),
          rows_(n_rows, unit, n_threads),
          input_(kernel.in_row * static_cast<size_t>(n_rows)),
          output_(kernel.out_row * static_cast<size_t>(n_rows)) {}

    void prepare(const Stopped& stopped) {
        const auto fill = [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) {
                std::memcpy(in(row), &kernel_.input[tile_offset(row, kernel_.in_row)],
                            kernel_.in_row);
            }
            std::memset(out(begin), 0xff, kernel_.out_row * static_cast<size_t>(end - begin));
        };
        rows_.visit_all(fill, stopped);
    }

    TimedRows::Sample sample(double seconds, const Stopped& stopped) {
        const auto work = [&](int64_t begin, int64_t end) {
            kernel_.compute(in(begin), out(begin), end - begin);
        };
        return rows_.run(work, seconds, stopped);
    }

    void check(ggml_type type) {
        for (int64_t row = 0; row < n_rows_; ++row) {
            if (!rows_.was_visited(row)) continue;
            const uint8_t* wanted = &kernel_.expected[tile_offset(row, kernel_.out_row)];
            if (std::memcmp(out(row), wanted, kernel_.out_row) == 0) continue;
            fail<Error>(ggml_type_name(type), ": row ", row, " of the working set came out wrong");
        }
    }

  private:
    size_t tile_offset(int64_t row, size_t row_size) const {
        return static_cast<size_t>(row % tile_rows_) * row_size;
    }
    uint8_t* in(int64_t row) { return input_.data() + static_cast<size_t>(row) * kernel_.in_row; }
    uint8_t* out(int64_t row) {
        return output_.data() + static_cast<size_t>(row) * kernel_.out_row;
    }

    const RowKernel& kernel_;
    int64_t tile_rows_, n_rows_;
    TimedRows rows_;
    Buffer input_, output_;
};

void check_tile(const KernelTile& tile) {
    // Rows begin at whole words, and a count of weights fits an int for ggml's dot products.
    if (tile.n_rows < 1 || tile.n_per_row < 2 || tile.n_per_row % 2 != 0 ||
        tile.n_per_row > INT32_MAX) {
        fail<InvalidArgument>("tile: expected at least one row of an even number of weights");
    }
    if (!all_finite(tile.weights, tile.n_rows * tile.n_per_row)) {
        fail<InvalidArgument>("tile: expected finite weights");
    }
    check_imatrix("tile", tile.imatrix, tile.n_per_row, 1);
}

void wait_for_tables(ggml_type type, const Stopped& stopped) {
    const QuantizerTables tables(type);
    while (!tables.ready(50)) {
        if (stopped()) fail<Cancelled>("the benchmark was stopped");
    }
}

class CpuKernelBench : public KernelBench {
  public:
    CpuKernelBench() { ggml_cpu_init(); }  // fills the tables that dot products look things up in

    bool supports(KernelOperation operation, ggml_type type) const override {
        const ggml_type_traits_cpu* traits = ggml_get_type_traits_cpu(type);
        switch (operation) {
            case KernelOperation::copy:
            case KernelOperation::read:
                return type == GGML_TYPE_F32;
            case KernelOperation::to_float:
                return is_quantize_target(type) && ggml_get_type_traits(type)->to_float != nullptr;
            case KernelOperation::widen:
                return type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
            case KernelOperation::vec_dot:
                return is_quantize_target(type) && traits->vec_dot != nullptr &&
                       ggml_get_type_traits_cpu(traits->vec_dot_type)->from_float != nullptr;
            case KernelOperation::quantize:
                return is_quantize_target(type) && type != GGML_TYPE_F32;
            default:
                return false;
        }
    }

    KernelResult run(const KernelRequest& request, const KernelTile& tile,
                     const Stopped& stopped) override {
        check(request, tile);
        wait_for_tables(request.type, stopped);
        const RowKernel kernel = make_row_kernel(request.operation, request.type, tile);
        const int64_t tile_weights = tile.n_rows * tile.n_per_row;
        const int64_t n_tiles = (request.n_weights + tile_weights - 1) / tile_weights;
        const bool slow = request.operation == KernelOperation::quantize;
        TiledRun tiled(kernel, tile, n_tiles * tile.n_rows, slow ? kQuantizingUnit : kStreamingUnit,
                       request.n_threads);
        tiled.prepare(stopped);
        tiled.sample(request.sample_seconds / 2, stopped);  // to warm up

        KernelResult result;
        result.n_weights = n_tiles * tile_weights;
        result.bytes_per_weight = moved_bytes(request.operation, request.type);
        result.relative_error = kernel.relative_error;
        for (int i = 0; i < request.repetitions; ++i) {
            const TimedRows::Sample sample = tiled.sample(request.sample_seconds, stopped);
            result.samples.push_back({sample.n_rows * tile.n_per_row, sample.nanoseconds});
        }
        tiled.check(request.type);
        return result;
    }

  private:
    void check(const KernelRequest& request, const KernelTile& tile) const {
        if (!supports(request.operation, request.type)) {
            fail<InvalidArgument>("the CPU has no such operation for ",
                                  ggml_type_name(request.type));
        }
        check_tile(tile);
        row_bytes(request.type, tile.n_per_row);
        if (request.operation == KernelOperation::vec_dot) {
            row_bytes(ggml_get_type_traits_cpu(request.type)->vec_dot_type, tile.n_per_row);
        }
        if (request.n_weights < 1 || request.n_weights > INT64_MAX / 64) {
            fail<InvalidArgument>("n_weights: expected at least 1, found ", request.n_weights);
        }
        if (request.repetitions < 1 || !(request.sample_seconds > 0) ||
            request.sample_seconds > 3600) {
            fail<InvalidArgument>("expected at least 1 repetition of 0 to 3600 seconds, found ",
                                  request.repetitions, " of ", request.sample_seconds);
        }
    }
};

}  // namespace

std::unique_ptr<KernelBench> cpu_kernel_bench() {
    return std::make_unique<CpuKernelBench>();
}

}  // namespace apex
