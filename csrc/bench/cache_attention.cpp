#include "bench/cache_attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/checks.h"
#include "core/error.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
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
    return backend;
}

// Operations over tensors that are filled before they are computed.
class CacheGraph {
  public:
    explicit CacheGraph(const std::string& device) : backend_(open_device(device)) {
        ggml_init_params params{};
        params.mem_size = 64 * ggml_tensor_overhead() + ggml_graph_overhead();
        params.no_alloc = true;
        context_.reset(ggml_init(params));
        graph_ = ggml_new_graph(context_.get());
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

    void compute() {
        if (ggml_backend_graph_compute(backend_.get(), graph_) != GGML_STATUS_SUCCESS) {
            fail<DeviceError>(ggml_backend_name(backend_.get()), " cannot compute this attention");
        }
    }

  private:
    ggml_backend_ptr backend_;
    ggml_context_ptr context_;
    ggml_backend_buffer_ptr buffer_;
    ggml_cgraph* graph_;
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
    ggml_tensor* cache;  // after writing

    WrittenRows(CacheGraph& graph, ggml_type type, int64_t n_per_row, int64_t n_rows)
        : source(ggml_new_tensor_2d(graph.get(), GGML_TYPE_F32, n_per_row, n_rows)),
          numbers(ggml_new_tensor_1d(graph.get(), GGML_TYPE_I64, n_rows)),
          cache(ggml_set_rows(graph.get(), ggml_new_tensor_2d(graph.get(), type, n_per_row, n_rows),
                              source, numbers)) {
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
    ggml_tensor* q = ggml_new_tensor_4d(graph.get(), GGML_TYPE_F32, shape.head_size, shape.n_heads,
                                        shape.n_queries, shape.n_sequences);
    ggml_tensor* mask = ggml_new_tensor_4d(graph.get(), GGML_TYPE_F16, shape.n_cells,
                                           shape.n_queries, 1, shape.n_sequences);
    ggml_tensor* attended =
        ggml_flash_attn_ext(graph.get(), ggml_permute(graph.get(), q, 0, 2, 1, 3),
                            by_heads(graph, k.cache, shape), by_heads(graph, v.cache, shape), mask,
                            1.0f / std::sqrt(static_cast<float>(shape.head_size)), 0.0f, 0.0f);
    ggml_prec_set_acc(attended, GGML_PREC_F32);
    graph.add(attended);
    graph.allocate();
    k.fill(keys);
    v.fill(values);
    set(q, queries);
    set(mask, std::vector<uint8_t>(ggml_nbytes(mask), 0).data());
    graph.compute();
    return get<float>(attended);
}

}  // namespace apex
