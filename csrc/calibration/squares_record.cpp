#include "calibration/squares_record.h"

#include <algorithm>

#include "core/device_memory.h"

namespace apex {
namespace {

static_assert(sizeof(int64_t) == sizeof(double), "sums and counts lie in one array");

std::shared_ptr<double> make_memory(size_t n, bool pinned) {
    if (pinned) return std::static_pointer_cast<double>(make_pinned(n * sizeof(double)));
    return std::shared_ptr<double>(new double[n], std::default_delete<double[]>());
}

}  // namespace

int64_t* SquaresRecord::Input::counts() const {
    return reinterpret_cast<int64_t*>(memory.get() + n_matrices * n_per_row);
}

std::pair<SquaresRecord::Input*, bool> SquaresRecord::input_for(const MatmulNode& node,
                                                                uint64_t number, int64_t n_matrices,
                                                                int64_t n_per_row, bool pinned) {
    const WeightReader reader{node.weight.name, node.experts != nullptr};
    // Numbers grow, and readers of one input are a few nodes apart.
    for (size_t i = n_used_; i > 0 && inputs_[i - 1].number >= number; --i) {
        if (inputs_[i - 1].number != number) continue;
        inputs_[i - 1].readers.push_back(reader);
        return {&inputs_[i - 1], false};
    }
    if (n_used_ == inputs_.size()) inputs_.emplace_back();
    Input& input = inputs_[n_used_++];
    input.number = number;
    input.n_matrices = n_matrices;
    input.n_per_row = n_per_row;
    input.readers.assign(1, reader);
    const auto needed = static_cast<size_t>(n_matrices * n_per_row + n_matrices);
    if (needed > input.capacity || pinned != input.is_pinned) {
        input.memory.reset();
        input.memory = make_memory(needed, pinned);
        input.capacity = needed;
        input.is_pinned = pinned;
    }
    return {&input, true};
}

void SquaresRecord::add(const MatmulNode& node, const InputSquares& squares) {
    const auto [input, is_new] =
        input_for(node, squares.number, squares.n_matrices(), squares.n_per_row, false);
    if (!is_new) return;
    std::copy(squares.sums.begin(), squares.sums.end(), input->sums());
    std::copy(squares.counts.begin(), squares.counts.end(), input->counts());
}

void SquaresRecord::add(const MatmulNode& node, const DeviceSlot& slot) {
    const auto [input, is_new] =
        input_for(node, slot.number, slot.n_matrices, slot.n_per_row, true);
    if (!is_new) return;
    writing_.insert(slot.squares);
    slot.squares->start_read(slot.slot, input->sums(), input->counts());
}

void SquaresRecord::finish() {
    for (DeviceSquares* squares : writing_) squares->wait();
    writing_.clear();
}

void SquaresRecord::add_to(ImatrixTotals& totals) const {
    for (size_t i = 0; i < n_used_; ++i) {
        for (const WeightReader& reader : inputs_[i].readers) {
            totals.add(reader, inputs_[i].squares());
        }
    }
}

void SquaresRecord::clear() {
    n_used_ = 0;
}

size_t SquaresRecord::n_bytes() const {
    size_t bytes = 0;
    for (const Input& input : inputs_) bytes += input.capacity * sizeof(double);
    return bytes;
}

}  // namespace apex
