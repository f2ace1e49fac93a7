#include "bind/module.h"
#include "core/checks.h"
#include "core/gguf_file.h"

namespace apex::bind {
namespace {

// numpy order: slices (experts) first, the row last; trailing ones of ggml are not dimensions here.
py::tuple row_major_shape(const GgufTensor& tensor) {
    py::tuple shape(static_cast<size_t>(tensor.n_dims));
    for (int d = 0; d < tensor.n_dims; ++d) {
        shape[static_cast<size_t>(d)] = tensor.ne[tensor.n_dims - 1 - d];
    }
    return shape;
}

py::list tensor_rows(const GgufFile& file) {
    py::list rows;
    for (const ShardTensor& tensor : file.tensors()) {
        rows.append(py::make_tuple(tensor.entry.name, row_major_shape(tensor.entry),
                                   static_cast<int>(tensor.entry.type), tensor.entry.n_bytes,
                                   tensor.shard, tensor.entry.offset));
    }
    return rows;
}

// Values keep bytes that are not UTF-8 as surrogates, to be encoded back unchanged.
py::object lossless_text(const std::string& text) {
    PyObject* decoded =
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape");
    if (decoded == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(decoded);
}

py::object scalar(const GgufScalar& value) {
    if (const auto* text = std::get_if<std::string>(&value)) return lossless_text(*text);
    return std::visit([](const auto& v) -> py::object { return py::cast(v); }, value);
}

// key -> (value or None where the array is long, encoded bytes)
py::dict key_values(const GgufFile& file) {
    py::dict result;
    for (const GgufKeyValue& pair : file.header().key_values) {
        py::object value = py::none();
        if (pair.is_array && (pair.n_values == 0 || !pair.values.empty())) {
            py::tuple values(pair.values.size());
            for (size_t i = 0; i < pair.values.size(); ++i) values[i] = scalar(pair.values[i]);
            value = std::move(values);
        } else if (!pair.is_array) {
            value = scalar(pair.values[0]);
        }
        result[py::str(pair.key)] = py::make_tuple(value, pair.end - pair.begin);
    }
    return result;
}

py::bytes encoded_pair(const GgufFile& file, const std::string& key) {
    const GgufKeyValue* pair = file.header().find(key);
    if (pair == nullptr) throw py::key_error(key);
    const uint8_t* data = file.shard_file(0).data();
    return {reinterpret_cast<const char*>(data) + pair->begin, pair->end - pair->begin};
}

const ShardTensor& tensor_at(const GgufFile& file, size_t index) {
    if (index >= file.tensors().size()) throw py::index_error("tensor index out of range");
    return file.tensors()[index];
}

// A read-only view whose base is the file object: the mapping lives as long as any view.
py::array tensor_bytes(const py::object& self, size_t index) {
    const auto& file = self.cast<const GgufFile&>();
    const ShardTensor& tensor = tensor_at(file, index);
    py::array view = py::array_t<uint8_t>({static_cast<py::ssize_t>(tensor.entry.n_bytes)}, {1},
                                          file.tensor_data(tensor), self);
    view.attr("setflags")("write"_a = false);
    return view;
}

py::list shard_paths(const GgufFile& file) {
    py::list paths;
    for (size_t i = 0; i < file.n_shards(); ++i) {
        const std::string& path = file.shard_file(i).path();
        paths.append(py::reinterpret_steal<py::object>(
            PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<Py_ssize_t>(path.size()))));
    }
    return paths;
}

}  // namespace

void register_gguf(py::module_& module) {
    py::class_<GgufFile>(module, "GgufFile", py::release_gil_before_calling_cpp_dtor(),
                         "A GGUF model, all shards of it, mapped read-only.")
        .def(py::init<const std::string&, bool>(), "path"_a, py::kw_only(),
             "with_siblings"_a = true, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("tensors", &tensor_rows,
                               "(name, row-major shape, type number, bytes, shard, offset) each.")
        .def_property_readonly("key_values", &key_values, "key -> (value or None, encoded bytes).")
        .def_property_readonly("alignment",
                               [](const GgufFile& file) { return file.header().alignment; })
        .def_property_readonly("version",
                               [](const GgufFile& file) { return file.header().version; })
        .def_property_readonly("has_data", &GgufFile::has_data)
        .def_property_readonly(
            "missing_data", [](const GgufFile& file) { return lossless_text(file.missing_data()); })
        .def_property_readonly("shard_paths", &shard_paths)
        .def_property_readonly(
            "data_begin", [](const GgufFile& file) { return file.header().data_begin; },
            "Bytes before the first shard's weights.")
        .def("encoded_pair", &encoded_pair, "key"_a, "The pair's bytes as stored in the file.")
        .def("tensor_bytes", &tensor_bytes, "index"_a, "Read-only uint8 view of the mapped data.")
        .def(
            "stored_tensor",
            [](const GgufFile& file, size_t index) {
                return file.stored_tensor(tensor_at(file, index));
            },
            "index"_a, "The tensor for readers by position.");
}

}  // namespace apex::bind
