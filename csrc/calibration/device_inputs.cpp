#include "calibration/device_inputs.h"

#include <algorithm>

#include "core/error.h"
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

bool DeviceInputs::add_known(const MatmulNode& node, const ImatrixSums* before) {
    for (auto& [device, gpu] : gpus_) {
        for (size_t slot = 0; slot < kKept; ++slot) {
            const InputIdentity& identity = gpu.kept[slot].identity;
            if (identity.values == nullptr || !(identity == node.identity)) continue;
            add(device, slot, node, before);
            return true;
        }
    }
    return false;
}

bool DeviceInputs::compute_and_add(const MatmulNode& node, const ImatrixSums* before) {
    const int device = device_of_tensor(node.input);
    if (device < 0) return false;
    if (node.experts != nullptr && device_of_tensor(node.experts) != device) return false;
    Gpu& own = gpu(device);
    const size_t slot = own.next;
    own.next = (own.next + 1) % kKept;
    Kept& kept = own.kept[slot];
    kept.identity = {};
    if (!own.squares->compute(slot, to_device_input(node))) return false;
    kept.n_per_row = node.weight.n_per_row();
    kept.n_matrices = node.weight.n_matrices();
    add(device, slot, node, before);
    // A leaf is filled from outside and never asked about: it cannot be seen changing.
    if (node.identity.values->op != GGML_OP_NONE) kept.identity = node.identity;
    return true;
}

void DeviceInputs::forget(const ggml_tensor* node) {
    for (auto& [device, gpu] : gpus_) {
        for (Kept& kept : gpu.kept) {
            if (kept.identity.values == node || kept.identity.experts == node) kept.identity = {};
        }
    }
}

void DeviceInputs::add(int device, size_t slot, const MatmulNode& node, const ImatrixSums* before) {
    const Kept& kept = gpu(device).kept[slot];
    Total& total = total_of(device, kept, node, before);
    if (total.n_per_row != kept.n_per_row || total.n_matrices != kept.n_matrices) {
        fail<ModelError>(node.weight.name, ": collected as ", total.n_matrices, " x ",
                         total.n_per_row, " before, now it is ", kept.n_matrices, " x ",
                         kept.n_per_row, "; was this matrix collected from another model?");
    }
    gpu(device).squares->add(slot, total.number);
    total.changed = true;
}

DeviceInputs::Total& DeviceInputs::total_of(int device, const Kept& kept, const MatmulNode& node,
                                            const ImatrixSums* before) {
    Total& total = totals_[node.weight.name];
    if (total.device == device) return total;
    // A layer may be computed here now and there then; its total moves along.
    ImatrixSums start;
    if (total.device >= 0) {
        start = read(total);
        gpu(total.device).squares->drop_total(total.number);
    } else if (before != nullptr) {
        start = *before;
    } else {
        const auto n_matrices = static_cast<size_t>(kept.n_matrices);
        start.n_per_row = kept.n_per_row;
        start.sums.assign(n_matrices * static_cast<size_t>(kept.n_per_row), 0.0);
        start.counts.assign(node.experts == nullptr ? 1 : n_matrices, 0);
    }
    total.device = device;
    total.n_per_row = start.n_per_row;
    total.n_matrices = static_cast<int64_t>(start.sums.size()) / start.n_per_row;
    total.n_counts = static_cast<int64_t>(start.counts.size());
    total.number =
        gpu(device).squares->add_total(start.sums.data(), static_cast<int64_t>(start.sums.size()),
                                       start.counts.data(), total.n_counts);
    return total;
}

ImatrixSums DeviceInputs::read(const Total& total) {
    ImatrixSums sums;
    sums.n_per_row = total.n_per_row;
    sums.sums.resize(static_cast<size_t>(total.n_matrices * total.n_per_row));
    sums.counts.resize(static_cast<size_t>(total.n_counts));
    gpu(total.device).squares->read_total(total.number, sums.sums.data(), sums.counts.data());
    return sums;
}

void DeviceInputs::read_totals(std::map<std::string, ImatrixSums>& entries) {
    for (auto& [weight, total] : totals_) {
        if (!total.changed) continue;
        ImatrixSums sums = read(total);
        for (const int64_t count : sums.counts) {
            if (count > kMaxTokenCount) fail<ModelError>(weight, ": more than 2^53 tokens");
        }
        entries[weight] = std::move(sums);
        total.changed = false;
    }
}

void DeviceInputs::drop_total(const std::string& weight,
                              std::map<std::string, ImatrixSums>& entries) {
    const auto found = totals_.find(weight);
    if (found == totals_.end()) return;
    if (found->second.changed) entries[weight] = read(found->second);
    gpu(found->second.device).squares->drop_total(found->second.number);
    totals_.erase(found);
}

}  // namespace apex
