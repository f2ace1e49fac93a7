#include "bench/kernel_bench.h"

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
        case KernelOperation::mat_mul:
            return stored;
        case KernelOperation::to_half:
        case KernelOperation::to_bfloat:
            return stored + sizeof(uint16_t);
        default:
            return stored + sizeof(float);
    }
}

NamedOperation kernel_operation(const std::string& name) {
    if (name == "copy") return {KernelOperation::copy};
    if (name == "read") return {KernelOperation::read};
    if (name == "to_float") return {KernelOperation::to_float};
    if (name == "widen") return {KernelOperation::widen};
    if (name == "to_half") return {KernelOperation::to_half};
    if (name == "to_bfloat") return {KernelOperation::to_bfloat};
    if (name == "vec_dot") return {KernelOperation::vec_dot};
    if (name == "quantize") return {KernelOperation::quantize};
    const std::string prefix = "mat_mul_";
    const std::string digits =
        name.compare(0, prefix.size(), prefix) == 0 ? name.substr(prefix.size()) : std::string();
    constexpr size_t kMostDigits = 4;  // more columns are more of the same
    if (!digits.empty() && digits.size() <= kMostDigits && digits[0] != '0' &&
        digits.find_first_not_of("0123456789") == std::string::npos) {
        return {KernelOperation::mat_mul, std::stoll(digits)};
    }
    fail<InvalidArgument>(
        "operation: expected copy, read, to_float, widen, to_half, to_bfloat, vec_dot, mat_mul_N "
        "or "
        "quantize, found '",
        name, "'");
}

}  // namespace apex
