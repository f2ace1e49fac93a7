#include "bench/cache_attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>

#include "core/checks.h"
#include "core/error.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"
#include "model/cache_types.h"

namespace apex {
namespace {

ggml_backend_ptr open_device(const std::string& device) {
    if (device != "cpu" && device != "cuda") {
        fail<InvalidArgument>("device: expected cpu or cuda, found '", device, "'");
    }
    const enum ggml_backend_dev_type type =
        device == "cpu" ? GGML_BACKEND_DEVICE_TYPE_CPU : GGML_BACKEND_DEVICE_TYPE_GPU;
    ggml_backend_ptr backend(ggml_backend_init_by_type(type, nullptr));
    if (!backend) fail<DeviceError>("this build of ggml, or this machine, has no ", device);
    // More threads would wait for each other; what is measured on a CPU is a core.
    if (device == "cpu") ggml_backend_cpu_set_n_threads(backend.get(), 1);
    return backend;
}

// Operations over tensors that are filled before they are computed.
class CacheGraph {
  public:
    using Computation = ggml_cgraph*;

    explicit CacheGraph(const std::string& device, int n_layers = 1)
        : backend_(open_device(device)), n_nodes_(32 * static_cast<size_t>(n_layers) + 32) {
        ggml_init_params params{};
        params.mem_size =
            n_nodes_ * ggml_tensor_overhead() + 2 * ggml_graph_overhead_custom(n_nodes_, false);
        params.no_alloc = true;
        context_.reset(ggml_init(params));
        take();
    }

    // What was added so far; what is added from here on is another computation.
    Computation take() {
        Computation taken = graph_;
        graph_ = ggml_new_graph_custom(context_.get(), n_nodes_, false);
        return taken;
    }

    ggml_context* get() { return context_.get(); }

    void add(ggml_tensor* node) {
        if (!ggml_backend_supports_op(backend_.get(), node)) {
            fail<DeviceError>("ggml's ", ggml_backend_name(backend_.get()), " has no ",
                              ggml_op_name(node->op), " of ", ggml_type_name(node->type));
        }
        ggml_build_forward_expand(graph_, node);
    }

    void allocate() {
        buffer_.reset(ggml_backend_alloc_ctx_tensors(context_.get(), backend_.get()));
        if (!buffer_) fail<DeviceError>("the device has no room for this cache");
    }

    void compute() { compute(graph_); }

    void compute(Computation computation) {
        if (ggml_backend_graph_compute(backend_.get(), computation) != GGML_STATUS_SUCCESS) {
            fail<DeviceError>(ggml_backend_name(backend_.get()), " cannot compute this attention");
        }
    }

  private:
    ggml_backend_ptr backend_;
    ggml_context_ptr context_;
    ggml_backend_buffer_ptr buffer_;
    size_t n_nodes_;
    Computation graph_ = nullptr;
};

void set(ggml_tensor* tensor, const void* from) {
    ggml_backend_tensor_set(tensor, from, 0, ggml_nbytes(tensor));
}

template <class T>
std::vector<T> get(const ggml_tensor* tensor) {
    std::vector<T> found(ggml_nbytes(tensor) / sizeof(T));
    ggml_backend_tensor_get(tensor, found.data(), 0, ggml_nbytes(tensor));
    return found;
}

// A cache of n_rows rows that are written in order.
struct WrittenRows {
    ggml_tensor* source;
    ggml_tensor* numbers;
    ggml_tensor* place;
    ggml_tensor* cache;  // place, after writing

    WrittenRows(CacheGraph& graph, ggml_type type, int64_t n_per_row, int64_t n_rows)
        : WrittenRows(graph, type,
                      ggml_new_tensor_2d(graph.get(), GGML_TYPE_F32, n_per_row, n_rows),
                      ggml_new_tensor_1d(graph.get(), GGML_TYPE_I64, n_rows)) {}

    WrittenRows(CacheGraph& graph, ggml_type type, ggml_tensor* rows, ggml_tensor* order)
        : source(rows),
          numbers(order),
          place(ggml_new_tensor_2d(graph.get(), type, rows->ne[0], rows->ne[1])),
          cache(ggml_set_rows(graph.get(), place, rows, order)) {
        graph.add(cache);
    }

    void fill(const float* rows) {
        std::vector<int64_t> order(static_cast<size_t>(source->ne[1]));
        std::iota(order.begin(), order.end(), int64_t{0});
        set(source, rows);
        set(numbers, order.data());
    }
};

void check_type(ggml_type type, int64_t n_per_row) {
    if (!is_cache_type(type)) {
        fail<InvalidArgument>("a KV cache cannot have type ", ggml_type_name(type));
    }
    row_bytes(type, n_per_row);
}

void check_shape(const AttentionShape& shape) {
    for (const int64_t n : {shape.head_size, shape.n_heads, shape.n_kv_heads, shape.n_cells,
                            shape.n_queries, shape.n_sequences}) {
        if (n < 1) fail<InvalidArgument>("shape: expected at least 1, found ", n);
    }
    if (shape.n_heads % shape.n_kv_heads != 0) {
        fail<InvalidArgument>("n_heads: expected a multiple of ", shape.n_kv_heads, ", found ",
                              shape.n_heads);
    }
    check_type(shape.type_k, shape.head_size);
    check_type(shape.type_v, shape.head_size);
}

// (value, cell, head, sequence) of rows that hold all heads of a cell: as llama-kv-cache.cpp.
ggml_tensor* by_heads(CacheGraph& graph, ggml_tensor* cache, const AttentionShape& shape) {
    const size_t head = ggml_row_size(cache->type, shape.head_size);
    ggml_tensor* view = ggml_view_4d(graph.get(), cache, shape.head_size, shape.n_kv_heads,
                                     shape.n_cells, shape.n_sequences, head, cache->nb[1],
                                     cache->nb[1] * static_cast<size_t>(shape.n_cells), 0);
    return ggml_permute(graph.get(), view, 0, 2, 1, 3);
}

// What attends: the same for all layers, and every query sees every cell.
struct Queries {
    ggml_tensor* values;
    ggml_tensor* mask;

    Queries(CacheGraph& graph, const AttentionShape& shape)
        : values(ggml_new_tensor_4d(graph.get(), GGML_TYPE_F32, shape.head_size, shape.n_heads,
                                    shape.n_queries, shape.n_sequences)),
          mask(ggml_new_tensor_4d(graph.get(), GGML_TYPE_F16, shape.n_cells, shape.n_queries, 1,
                                  shape.n_sequences)) {}

    ggml_tensor* attend(CacheGraph& graph, const AttentionShape& shape, ggml_tensor* k_cache,
                        ggml_tensor* v_cache) const {
        ggml_tensor* attended = ggml_flash_attn_ext(
            graph.get(), ggml_permute(graph.get(), values, 0, 2, 1, 3),
            by_heads(graph, k_cache, shape), by_heads(graph, v_cache, shape), mask,
            1.0f / std::sqrt(static_cast<float>(shape.head_size)), 0.0f, 0.0f);
        ggml_prec_set_acc(attended, GGML_PREC_F32);
        graph.add(attended);
        return attended;
    }

    void fill(const float* queries) const {
        set(values, queries);
        set(mask, std::vector<uint8_t>(ggml_nbytes(mask), 0).data());
    }
};

std::vector<float> random_values(int64_t n) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = normal(random);
    return values;
}

}  // namespace

std::vector<uint8_t> write_cache_rows(const std::string& device, ggml_type type, const float* rows,
                                      int64_t n_rows, int64_t n_per_row) {
    check_type(type, n_per_row);
    if (n_rows < 1) fail<InvalidArgument>("rows: expected at least one");
    CacheGraph graph(device);
    WrittenRows written(graph, type, n_per_row, n_rows);
    graph.allocate();
    written.fill(rows);
    graph.compute();
    return get<uint8_t>(written.cache);
}

std::vector<float> read_cache_rows(ggml_type type, const uint8_t* stored, int64_t n_bytes,
                                   int64_t n_per_row) {
    check_type(type, n_per_row);
    const auto row_size = static_cast<int64_t>(row_bytes(type, n_per_row));
    if (n_bytes < 1 || n_bytes % row_size != 0) {
        fail<InvalidArgument>("stored: expected a multiple of ", row_size, " bytes, found ",
                              n_bytes);
    }
    const int64_t n = n_bytes / row_size * n_per_row;
    std::vector<float> values(static_cast<size_t>(n));
    if (type == GGML_TYPE_F32) {
        std::copy_n(reinterpret_cast<const float*>(stored), n, values.data());
    } else {
        ggml_get_type_traits(type)->to_float(stored, values.data(), n);
    }
    return values;
}

std::vector<float> cache_attention(const std::string& device, const AttentionShape& shape,
                                   const float* queries, const float* keys, const float* values) {
    check_shape(shape);
    CacheGraph graph(device);
    const int64_t n_per_row = shape.head_size * shape.n_kv_heads;
    const int64_t n_rows = shape.n_cells * shape.n_sequences;
    WrittenRows k(graph, shape.type_k, n_per_row, n_rows);
    WrittenRows v(graph, shape.type_v, n_per_row, n_rows);
    const Queries q(graph, shape);
    const ggml_tensor* attended = q.attend(graph, shape, k.cache, v.cache);
    graph.allocate();
    k.fill(keys);
    v.fill(values);
    q.fill(queries);
    graph.compute();
    return get<float>(attended);
}

std::vector<double> time_cache_attention(const std::string& device, const AttentionShape& shape,
                                         int n_layers, int repetitions) {
    check_shape(shape);
    if (n_layers < 1 || repetitions < 1) {
        fail<InvalidArgument>("n_layers, repetitions: expected at least 1, found ", n_layers, ", ",
                              repetitions);
    }
    CacheGraph graph(device, n_layers);
    const int64_t n_rows = shape.n_cells * shape.n_sequences;
    const int64_t n_per_row = shape.head_size * shape.n_kv_heads;
    const Queries q(graph, shape);
    std::vector<WrittenRows> k, v;
    for (int layer = 0; layer < n_layers; ++layer) {
        k.push_back(layer == 0 ? WrittenRows(graph, shape.type_k, n_per_row, n_rows)
                               : WrittenRows(graph, shape.type_k, k[0].source, k[0].numbers));
        v.emplace_back(graph, shape.type_v, k[0].source, k[0].numbers);
    }
    CacheGraph::Computation writing = graph.take();
    for (size_t layer = 0; layer < k.size(); ++layer) {
        q.attend(graph, shape, k[layer].place, v[layer].place);
    }
    graph.allocate();
    k[0].fill(random_values(n_rows * n_per_row).data());
    q.fill(random_values(ggml_nelements(q.values)).data());
    graph.compute(writing);
    constexpr int kWarmUps = 4;  // the backend records a CUDA graph at the third computation
    std::vector<double> seconds;
    for (int i = 0; i < kWarmUps + repetitions; ++i) {
        const auto start = std::chrono::steady_clock::now();
        graph.compute();
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        if (i >= kWarmUps) seconds.push_back(taken.count());
    }
    return seconds;
}

}  // namespace apex
