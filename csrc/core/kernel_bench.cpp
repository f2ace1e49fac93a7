#include "core/kernel_bench.h"

#include "core/error.h"

namespace apex {

double moved_bytes(KernelOperation operation, ggml_type type) {
    const double stored =
        static_cast<double>(ggml_type_size(type)) / static_cast<double>(ggml_blck_size(type));
    switch (operation) {
        case KernelOperation::copy:
            return 2.0 * sizeof(float);
        case KernelOperation::read:
            return sizeof(float);
        case KernelOperation::vec_dot:
            return stored;
        default:
            return stored + sizeof(float);
    }
}

KernelOperation kernel_operation(const std::string& name) {
    if (name == "copy") return KernelOperation::copy;
    if (name == "read") return KernelOperation::read;
    if (name == "to_float") return KernelOperation::to_float;
    if (name == "widen") return KernelOperation::widen;
    if (name == "vec_dot") return KernelOperation::vec_dot;
    if (name == "quantize") return KernelOperation::quantize;
    fail<InvalidArgument>(
        "operation: expected copy, read, to_float, widen, vec_dot or quantize, "
        "found '",
        name, "'");
}

}  // namespace apex
