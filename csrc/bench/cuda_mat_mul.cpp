#include "bench/cuda_mat_mul.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/convert_rows.h"
#include "core/error.h"
#include "core/quantize_rows.h"
#include "cuda/runtime.h"
#include "ggml-cpp.h"
#include "ggml-cuda.h"

namespace apex::cuda {
namespace {

using Clock = std::chrono::steady_clock;

// Rows of one matrix: a mid-sized model's.
constexpr int64_t kMatrixRows = 4096;

// As the CPU's dot products are checked (bench/row_kernels.cpp): of the norms. 8-bit activations
// are off by 0.4 % each. F16 products of many columns are summed in F16 by cuBLAS: where a row of
// 4096 meets itself that was off by 3.6e-3 on an H100. A wrong scale is off by 1.6e-2.
constexpr double kTolerance = 8e-3;

constexpr int kWarmUps = 4;  // the backend records a CUDA graph at the third computation

ggml_backend_ptr make_backend(int device) {
    ggml_backend_ptr backend(ggml_backend_cuda_init(device));
    if (!backend) fail<DeviceError>("ggml cannot use cuda:", device);
    return backend;
}

// Matrices, activations and their products: in one buffer on the GPU.
class MatMulGraph {
  public:
    MatMulGraph(ggml_backend_t backend, const KernelRequest& request, const KernelTile& tile)
        : backend_(backend), tile_(tile), type_(request.type), n_columns_(request.n_columns) {
        const int64_t per_matrix = kMatrixRows * tile.n_per_row;
        n_matrices_ = std::max<int64_t>(1, (request.n_weights + per_matrix - 1) / per_matrix);
        const auto n_nodes = static_cast<size_t>(n_matrices_);
        ggml_init_params params{};
        params.mem_size = (2 * n_nodes + 8) * ggml_tensor_overhead() +
                          ggml_graph_overhead_custom(n_nodes + 8, false);
        params.no_alloc = true;
        context_.reset(ggml_init(params));
        if (!context_) fail<Error>("ggml cannot make a graph of ", n_nodes, " nodes");
        graph_ = ggml_new_graph_custom(context_.get(), n_nodes + 8, false);
        activations_ =
            ggml_new_tensor_2d(context_.get(), GGML_TYPE_F32, tile.n_per_row, n_columns_);
        for (int64_t i = 0; i < n_matrices_; ++i) {
            matrices_.push_back(
                ggml_new_tensor_2d(context_.get(), type_, tile.n_per_row, kMatrixRows));
            products_.push_back(ggml_mul_mat(context_.get(), matrices_.back(), activations_));
            ggml_build_forward_expand(graph_, products_.back());
        }
        buffer_.reset(ggml_backend_alloc_ctx_tensors(context_.get(), backend_));
        if (!buffer_) {
            fail<DeviceError>("the GPU has no room for ", n_matrices_, " matrices of ",
                              ggml_type_name(type_), "; ask for a smaller working set");
        }
        fill();
    }

    int64_t n_weights() const { return n_matrices_ * kMatrixRows * tile_.n_per_row; }

    void compute() {
        const ggml_status status = ggml_backend_graph_compute(backend_, graph_);
        if (status != GGML_STATUS_SUCCESS) fail<DeviceError>("ggml's graph returned ", status);
    }

    // The largest |found - wanted| / (|weights| |activations|) of the first and last matrix's first
    // rows.
    double error() const {
        const std::vector<float> weights = restored();
        double worst = 0;
        for (const ggml_tensor* product : {products_.front(), products_.back()}) {
            std::vector<float> found(static_cast<size_t>(kMatrixRows * n_columns_));
            ggml_backend_tensor_get(product, found.data(), 0, found.size() * sizeof(float));
            for (int64_t column = 0; column < std::min(n_columns_, tile_.n_rows); ++column) {
                for (int64_t row = 0; row < tile_.n_rows; ++row) {
                    const float value = found[static_cast<size_t>(column * kMatrixRows + row)];
                    const double off = error_of(weights.data() + row * tile_.n_per_row,
                                                tile_.weights + column * tile_.n_per_row, value);
                    if (!(off <= worst)) worst = off;
                }
            }
        }
        return worst;
    }

  private:
    void fill() {
        const size_t row = ggml_row_size(type_, tile_.n_per_row);
        stored_.resize(static_cast<size_t>(tile_.n_rows) * row);
        store_rows(type_, tile_, stored_.data());
        std::vector<uint8_t> matrix(static_cast<size_t>(kMatrixRows) * row);
        for (size_t at = 0; at < matrix.size(); at += stored_.size()) {
            std::copy_n(stored_.begin(), std::min(stored_.size(), matrix.size() - at),
                        matrix.begin() + static_cast<std::ptrdiff_t>(at));
        }
        ggml_backend_tensor_set(matrices_[0], matrix.data(), 0, matrix.size());
        for (size_t i = 1; i < matrices_.size(); ++i) {
            APEX_CUDA_CALL(cudaMemcpy(matrices_[i]->data, matrices_[0]->data, matrix.size(),
                                      cudaMemcpyDeviceToDevice));
        }
        const size_t column = static_cast<size_t>(tile_.n_per_row) * sizeof(float);
        for (int64_t i = 0; i < n_columns_; ++i) {
            const float* from = tile_.weights + i % tile_.n_rows * tile_.n_per_row;
            ggml_backend_tensor_set(activations_, from, static_cast<size_t>(i) * column, column);
        }
    }

    static void store_rows(ggml_type type, const KernelTile& tile, uint8_t* to) {
        if (type == GGML_TYPE_F32) {
            const auto* from = reinterpret_cast<const uint8_t*>(tile.weights);
            std::copy_n(from, static_cast<size_t>(tile.n_rows * tile.n_per_row) * sizeof(float),
                        to);
        } else {
            quantize_rows(type, tile.weights, to, tile.n_rows, tile.n_per_row, tile.imatrix);
        }
    }

    std::vector<float> restored() const {
        std::vector<float> weights(static_cast<size_t>(tile_.n_rows * tile_.n_per_row));
        convert_to_float(type_, stored_.data(), weights.data(),
                         static_cast<int64_t>(weights.size()));
        return weights;
    }

    double error_of(const float* weights, const float* activations, float found) const {
        double wanted = 0, w_size = 0, a_size = 0;
        for (int64_t i = 0; i < tile_.n_per_row; ++i) {
            const double w = weights[i], a = activations[i];
            wanted += w * a;
            w_size += w * w;
            a_size += a * a;
        }
        const double norms = std::sqrt(w_size * a_size);
        return std::abs(found - wanted) / (norms > 0 ? norms : 1.0);
    }

    ggml_backend_t backend_;
    KernelTile tile_;
    ggml_type type_;
    int64_t n_columns_, n_matrices_;
    ggml_context_ptr context_;
    ggml_backend_buffer_ptr buffer_;
    ggml_cgraph* graph_ = nullptr;
    ggml_tensor* activations_ = nullptr;
    std::vector<ggml_tensor*> matrices_, products_;
    std::vector<uint8_t> stored_;
};

}  // namespace

bool backend_multiplies(int device, ggml_type type) {
    ggml_init_params params{};
    params.mem_size = 4 * ggml_tensor_overhead();
    params.no_alloc = true;
    const ggml_context_ptr context(ggml_init(params));
    constexpr int64_t kAnyRow = 4096;
    ggml_tensor* matrix = ggml_new_tensor_2d(context.get(), type, kAnyRow, kAnyRow);
    ggml_tensor* column = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, kAnyRow, 1);
    return ggml_backend_supports_op(make_backend(device).get(),
                                    ggml_mul_mat(context.get(), matrix, column));
}

KernelResult run_mat_mul(int device, const KernelRequest& request, const KernelTile& tile,
                         const std::function<bool()>& stopped) {
    const ggml_backend_ptr backend = make_backend(device);
    MatMulGraph graph(backend.get(), request, tile);
    for (int i = 0; i < kWarmUps; ++i) graph.compute();
    KernelResult result;
    result.n_weights = graph.n_weights();
    result.bytes_per_weight = moved_bytes(request.operation, request.type);
    for (int i = 0; i < request.repetitions; ++i) {
        KernelSample sample;
        const auto began = Clock::now();
        do {
            if (stopped()) fail<Cancelled>("the benchmark was stopped");
            graph.compute();
            sample.n_weights += graph.n_weights();
            sample.nanoseconds =
                std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - began).count();
        } while (static_cast<double>(sample.nanoseconds) < 1e9 * request.sample_seconds);
        result.samples.push_back(sample);
    }
    result.relative_error = graph.error();
    if (!(result.relative_error <= kTolerance)) {
        fail<Error>(ggml_type_name(request.type), ": a product with ", request.n_columns,
                    " columns is off by ", result.relative_error,
                    " of the norms, expected at most ", kTolerance);
    }
    return result;
}

}  // namespace apex::cuda
