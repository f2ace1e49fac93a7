#include "bench/cache_attention.h"
#include "bind/arrays.h"
#include "bind/types.h"

namespace apex::bind {
namespace {

py::array_t<uint8_t> write_rows(const FloatArray& rows, ggml_type type, const std::string& device) {
    if (rows.ndim() != 2) fail<InvalidArgument>("rows: expected shape (rows, n_per_row)");
    const std::vector<uint8_t> stored =
        write_cache_rows(device, type, rows.data(), rows.shape(0), rows.shape(1));
    const auto n_rows = static_cast<size_t>(rows.shape(0));
    return py::array_t<uint8_t>({n_rows, stored.size() / n_rows}, stored.data());
}

py::array_t<float> read_rows(const ByteArray& stored, ggml_type type, int64_t n_per_row) {
    const std::vector<float> values =
        read_cache_rows(type, stored.data(), stored.size(), n_per_row);
    const auto width = static_cast<size_t>(n_per_row);
    return py::array_t<float>({values.size() / width, width}, values.data());
}

AttentionShape shape_of(const FloatArray& queries, const FloatArray& keys, const FloatArray& values,
                        ggml_type type_k, ggml_type type_v) {
    if (queries.ndim() != 4 || keys.ndim() != 4) {
        fail<InvalidArgument>("queries, keys: expected shape (sequence, token, head, value)");
    }
    if (queries.shape(0) != keys.shape(0) || queries.shape(3) != keys.shape(3)) {
        fail<InvalidArgument>("queries and keys: expected as many sequences and values of a head");
    }
    require_size(values, keys.size(), "values");
    AttentionShape shape;
    shape.n_sequences = queries.shape(0);
    shape.n_queries = queries.shape(1);
    shape.n_heads = queries.shape(2);
    shape.head_size = queries.shape(3);
    shape.n_cells = keys.shape(1);
    shape.n_kv_heads = keys.shape(2);
    shape.type_k = type_k;
    shape.type_v = type_v;
    return shape;
}

py::array_t<float> attend(const FloatArray& queries, const FloatArray& keys,
                          const FloatArray& values, ggml_type type_k, ggml_type type_v,
                          const std::string& device) {
    const AttentionShape shape = shape_of(queries, keys, values, type_k, type_v);
    std::vector<float> attended;
    {
        const py::gil_scoped_release unlocked;
        attended = cache_attention(device, shape, queries.data(), keys.data(), values.data());
    }
    const std::vector<py::ssize_t> sizes(queries.shape(), queries.shape() + 4);
    return py::array_t<float>(sizes, attended.data());
}

std::vector<double> time_attention(const std::string& device, ggml_type type_k, ggml_type type_v,
                                   int64_t head_size, int64_t n_heads, int64_t n_kv_heads,
                                   int64_t n_cells, int64_t n_queries, int n_layers,
                                   int repetitions) {
    const py::gil_scoped_release unlocked;
    const AttentionShape shape{head_size, n_heads, n_kv_heads, n_cells,
                               n_queries, 1,       type_k,     type_v};
    return time_cache_attention(device, shape, n_layers, repetitions);
}

}  // namespace

void register_cache(py::module_& module) {
    module.def("write_cache_rows", &write_rows, "rows"_a.noconvert(), "type"_a, "device"_a = "cpu",
               "Bytes (rows, row bytes) of rows (rows, n_per_row) in a KV cache, as the device "
               "'cpu' or 'cuda' writes them.");
    module.def("read_cache_rows", &read_rows, "stored"_a.noconvert(), "type"_a, "n_per_row"_a,
               "The values (rows, n_per_row) that stored rows stand for.");
    module.def("cache_attention", &attend, "queries"_a.noconvert(), "keys"_a.noconvert(),
               "values"_a.noconvert(), "type_k"_a, "type_v"_a, "device"_a = "cpu",
               "Attention of queries (sequence, query, head, value) to all cells of a cache with "
               "these keys and values (sequence, cell, head, value).");
    module.def(
        "time_cache_attention", &time_attention, "device"_a, "type_k"_a, "type_v"_a, "head_size"_a,
        "n_heads"_a, "n_kv_heads"_a, "n_cells"_a, "n_queries"_a, "n_layers"_a, "repetitions"_a,
        "Seconds of each computation of n_layers such attentions, over caches of their own.");
}

}  // namespace apex::bind
