#include "bind/arrays.h"
#include "bind/types.h"
#include "core/checks.h"
#include "core/row_source.h"

namespace apex::bind {
namespace {

using RowOrder = py::array_t<int32_t, py::array::c_style>;

// What Python counts references of, given up wherever a worker happens to be the last.
std::shared_ptr<py::object> shared_object(py::object object) {
    return {new py::object(std::move(object)), [](py::object* owned) {
                const py::gil_scoped_acquire locked;
                delete owned;
            }};
}

std::shared_ptr<RowBlocks> make_blocks(int64_t n_rows, int64_t rows_per_block, size_t row_bytes,
                                       py::function make) {
    const auto shared = shared_object(std::move(make));
    const auto call = [shared](int64_t block) {
        const py::gil_scoped_acquire locked;
        const auto bytes = (*shared)(block).cast<ByteArray>();
        return BlockBytes{shared_object(bytes), bytes.data(), static_cast<size_t>(bytes.size())};
    };
    return std::make_shared<RowBlocks>(n_rows, rows_per_block, row_bytes, call);
}

// (file or blocks, offset, number of rows, order or None)
RowRange to_range(const py::handle& item) {
    const auto fields = item.cast<py::tuple>();
    RowRange range;
    if (py::isinstance<RowBlocks>(fields[0])) {
        range.blocks = fields[0].cast<std::shared_ptr<RowBlocks>>();
    } else {
        range.file = fields[0].cast<std::shared_ptr<MappedFile>>();
    }
    range.offset = fields[1].cast<uint64_t>();
    range.n_rows = fields[2].cast<int64_t>();
    if (!fields[3].is_none()) {
        const auto order = fields[3].cast<RowOrder>();
        range.order =
            std::make_shared<const std::vector<int32_t>>(order.data(), order.data() + order.size());
    }
    return range;
}

StoredTensor make_tensor(std::string name, ggml_type type, const std::vector<int64_t>& shape,
                         const py::list& ranges) {
    StoredTensor tensor;
    tensor.name = std::move(name);
    tensor.type = type;
    tensor.rows = rows_of_shape(tensor.name, shape);
    for (const py::handle& item : ranges) tensor.ranges.push_back(to_range(item));
    check_ranges(tensor);
    return tensor;
}

ByteArray rows_of(const StoredTensor& tensor, int64_t first, int64_t n_rows) {
    check_rows(tensor, first, n_rows);
    const size_t row_size = row_bytes(tensor.type, tensor.rows.n_per_row);
    ByteArray bytes(static_cast<py::ssize_t>(static_cast<size_t>(n_rows) * row_size));
    uint8_t* out = bytes.mutable_data();
    const py::gil_scoped_release unlocked;
    read_rows(tensor, first, n_rows, out);
    return bytes;
}

}  // namespace

void register_stored_tensor(py::module_& module) {
    py::class_<MappedFile, std::shared_ptr<MappedFile>>(module, "MappedFile",
                                                        "A file that is read by position.")
        .def(py::init<const std::string&>(), "path"_a, py::call_guard<py::gil_scoped_release>());
    py::class_<RowBlocks, std::shared_ptr<RowBlocks>>(module, "RowBlocks",
                                                      "Rows that are computed when they are read.")
        .def(py::init(&make_blocks), "n_rows"_a, "rows_per_block"_a, "row_bytes"_a, "make"_a,
             "make: gives a block's bytes, a contiguous uint8 array, for its number; called by "
             "several threads.");
    py::class_<StoredTensor>(module, "StoredTensor", "Rows of one tensor, wherever they lie.")
        .def(py::init(&make_tensor), "name"_a, "type"_a, "shape"_a, "ranges"_a,
             "ranges: (MappedFile or RowBlocks, offset, number of rows, int32 order of stored rows "
             "or None).")
        .def("read_rows", &rows_of, "first"_a, "n_rows"_a, "Their stored bytes.");
}

}  // namespace apex::bind
