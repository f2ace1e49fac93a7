#include "calibration/device_inputs.h"

#include <algorithm>

#include "model/tensor_place.h"

namespace apex {
namespace {

DeviceInput to_device_input(const MatmulNode& node) {
    DeviceInput input;
    input.data = node.input->data;
    std::copy_n(node.input->ne, 4, input.ne);
    std::copy_n(node.input->nb, 4, input.nb);
    std::copy_n(node.weight.ne + 2, 2, input.n_matrices);
    if (node.experts == nullptr) return input;
    input.experts = node.experts->data;
    input.n_used = node.experts->ne[0];
    input.n_tokens = node.experts->ne[1];
    std::copy_n(node.experts->nb, 2, input.expert_nb);
    return input;
}

}  // namespace

DeviceInputs::Gpu& DeviceInputs::gpu(int device) {
    Gpu& gpu = gpus_[device];
    if (!gpu.squares) gpu.squares = make_device_squares(device, kKept);
    return gpu;
}

std::optional<DeviceSlot> DeviceInputs::find(const InputIdentity& identity) {
    for (const auto& [device, gpu] : gpus_) {
        for (const Kept& kept : gpu.kept) {
            if (kept.identity.values != nullptr && kept.identity == identity) return kept.slot;
        }
    }
    return std::nullopt;
}

std::optional<DeviceSlot> DeviceInputs::compute(const MatmulNode& node, uint64_t number) {
    const int device = device_of_tensor(node.input);
    if (device < 0) return std::nullopt;
    if (node.experts != nullptr && device_of_tensor(node.experts) != device) return std::nullopt;
    Gpu& own = gpu(device);
    const size_t slot = own.next;
    own.next = (own.next + 1) % kKept;
    Kept& kept = own.kept[slot];
    kept.identity = {};
    const DeviceInput input = to_device_input(node);
    if (!own.squares->compute(slot, input)) return std::nullopt;
    kept.slot = {node.weight.name,
                 device,
                 input,
                 own.squares.get(),
                 slot,
                 number,
                 node.weight.n_matrices(),
                 node.weight.n_per_row()};
    // A leaf is filled from outside and never asked about: it cannot be seen changing.
    if (node.identity.values->op != GGML_OP_NONE) kept.identity = node.identity;
    return kept.slot;
}

void DeviceInputs::forget(const ggml_tensor* node) {
    for (auto& [device, gpu] : gpus_) {
        for (Kept& kept : gpu.kept) {
            if (kept.identity.values == node || kept.identity.experts == node) kept.identity = {};
        }
    }
}

}  // namespace apex
