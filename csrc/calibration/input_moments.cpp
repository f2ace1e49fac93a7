#include "calibration/input_moments.h"

#include <algorithm>
#include <atomic>

#include "calibration/imatrix_sums.h"
#include "calibration/output_input.h"
#include "core/error.h"
#include "model/tensor_place.h"
#include "moments/products.h"

namespace apex {
namespace {

// Of a GPU's memory: for what the model and our other sums come to need there.
constexpr size_t kSpareBytes = size_t{1} << 30;

void add_counts(const std::string& input, const std::vector<int64_t>& counts,
                std::vector<int64_t>& totals) {
    for (size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] > kMaxTokenCount - totals[i]) fail<ModelError>(input, ": too many tokens");
        totals[i] += counts[i];
    }
}

// Rows of a matrix's triangle from begin to end, their diagonal taken from exact squares: those of
// the importance matrix, added in its order.
void add_tile(const float* const* rows, size_t n_rows, int64_t n, int64_t begin, int64_t end,
              const double* squares, double* sums) {
    double before[kProductTile];
    for (int64_t i = begin; i < end; ++i) before[i - begin] = sums[packed_size(i) + i];
    add_products(rows, n_rows, n, begin, end, sums);
    for (int64_t i = begin; i < end; ++i) {
        sums[packed_size(i) + i] = before[i - begin] + squares[i];
    }
}

MomentOnHost on_host(InputMoment& moment) {
    return {moment.part.data(), moment.rest.data(), moment.counts.data(),
            moment.part_counts.data()};
}

// Zeros where nothing was added yet.
void make_room(InputMoment& moment) {
    moment.part.resize(moment.n_sums());
    moment.rest.resize(moment.n_sums());
}

void round_sums(const InputMoment& moment, size_t begin, size_t end, float* total, float* part) {
    for (size_t i = begin; i < end; ++i) {
        total[i] = static_cast<float>(moment.part[i] + moment.rest[i]);
        part[i] = static_cast<float>(moment.part[i]);
    }
}

bool is_finite(const float* values, size_t n) {
    float sum = 0;
    for (size_t i = 0; i < n; ++i) sum += values[i] * 0.0f;  // 0, or else NaN
    return sum == 0.0f;
}

}  // namespace

std::vector<KnownInput> inputs_of(ggml_cgraph* graph) {
    std::vector<KnownInput> result;
    std::vector<InputIdentity> identities;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const std::optional<MatmulNode> node = as_matmul(ggml_graph_node(graph, i));
        if (!node) continue;
        const auto known = std::find(identities.begin(), identities.end(), node->identity);
        const auto at = static_cast<size_t>(known - identities.begin());
        if (known == identities.end()) {
            identities.push_back(node->identity);
            result.push_back({{}, node->weight.n_per_row(), node->weight.n_matrices()});
        }
        result[at].weights.push_back(node->weight.name);
    }
    return result;
}

std::string last_of(ggml_cgraph* graph, const std::set<std::string>& weights) {
    std::string last;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const std::optional<MatmulNode> node = as_matmul(ggml_graph_node(graph, i));
        if (!node || weights.count(node->weight.name) == 0) continue;
        last = is_output_weight(*node) ? std::string() : node->weight.name;
    }
    return last;
}

size_t InputMoment::n_sums() const {
    return counts.size() * static_cast<size_t>(packed_size(n_per_row));
}

InputMoment& InputMoments::moment_for(const std::string& input, int64_t n_per_row,
                                      int64_t n_matrices) {
    InputMoment& moment = moments_[input];
    if (moment.n_per_row == 0) {
        moment.n_per_row = n_per_row;
        moment.counts.assign(static_cast<size_t>(n_matrices), 0);
        moment.part_counts = moment.counts;
    }
    if (moment.n_per_row != n_per_row || moment.n_matrices() != n_matrices) {
        fail<ModelError>(input, ": its second moment was collected from another model");
    }
    return moment;
}

void InputMoments::add(const std::string& weight, const InputSquares& squares,
                       const SortedRows& rows, ThreadPool& pool) {
    const std::string& input = input_of_.emplace(weight, weight).first->second;
    if (input != weight) return;  // added when its owner was seen
    InputMoment& moment = moment_for(input, squares.n_per_row, squares.n_matrices());
    bring_to_host(input);
    make_room(moment);
    double* sums = in_part_ ? moment.part.data() : moment.rest.data();
    const int64_t n = squares.n_per_row, packed = packed_size(n);
    const int64_t n_tiles = (n + kProductTile - 1) / kProductTile;
    pool.run([&](int thread, int n_threads) {
        for (int64_t matrix = 0; matrix < moment.n_matrices(); ++matrix) {
            const size_t first = rows.first[static_cast<size_t>(matrix)];
            const size_t count = rows.first[static_cast<size_t>(matrix) + 1] - first;
            if (count == 0) continue;
            for (int64_t tile = 0; tile < n_tiles; ++tile) {
                if ((matrix + tile) % n_threads != thread) continue;
                const int64_t begin = tile * kProductTile;
                add_tile(rows.data + first, count, n, begin, std::min(begin + kProductTile, n),
                         squares.sums.data() + matrix * n, sums + matrix * packed);
            }
        }
    });
    add_counts(input, squares.counts, moment.counts);
    if (in_part_) add_counts(input, squares.counts, moment.part_counts);
}

bool InputMoments::fits_device(const MatmulNode& node) {
    const std::string& input = input_of_.emplace(node.weight.name, node.weight.name).first->second;
    const int device = device_of_tensor(node.input);
    if (device < 0 || input != node.weight.name || on_device_.count(input) != 0) return true;
    if (too_large_.count(input) != 0) return false;
    std::unique_ptr<DeviceMoments>& moments = devices_[device];
    if (!moments) moments = make_device_moments(device);
    InputMoment& moment = moment_for(input, node.weight.n_per_row(), node.weight.n_matrices());
    if (!moments->add_sums(next_number_, moment.n_matrices(), moment.n_per_row, kSpareBytes)) {
        too_large_.insert(input);
        return false;
    }
    if (!moment.part.empty()) moments->write(next_number_, on_host(moment));
    on_device_[input] = {moments.get(), next_number_++, false};
    return true;
}

void InputMoments::add_on_device(const DeviceSlot& slot) {
    const std::string& input = input_of_.at(slot.weight);
    if (input != slot.weight) return;  // added when its owner was seen
    const auto found = on_device_.find(input);
    if (found == on_device_.end() || found->second.moments != devices_.at(slot.device).get()) {
        fail<ModelError>(input, ": computed on another GPU than before");
    }
    OnDevice& on_device = found->second;
    on_device.moments->add(on_device.number, slot.input, slot.squares->sums(slot.slot), in_part_);
    on_device.changed = true;
}

void InputMoments::copy_to_host(InputMoment& moment, OnDevice& on_device) {
    if (!on_device.changed) return;
    make_room(moment);
    on_device.moments->read(on_device.number, on_host(moment));
    on_device.changed = false;
}

// Ends a moment's sums on a GPU, if they lie on one.
void InputMoments::bring_to_host(const std::string& input) {
    const auto found = on_device_.find(input);
    if (found == on_device_.end()) return;
    copy_to_host(moments_.at(input), found->second);
    found->second.moments->drop(found->second.number);
    on_device_.erase(found);
}

const std::map<std::string, InputMoment>& InputMoments::read() {
    for (auto& [input, on_device] : on_device_) copy_to_host(moments_.at(input), on_device);
    for (auto& [input, moment] : moments_) make_room(moment);
    return moments_;
}

void InputMoments::take(const std::string& input, float* total, float* part, ThreadPool& pool) {
    InputMoment& moment = moments_.at(input);
    const auto found = on_device_.find(input);
    const OnDevice* on_device = found == on_device_.end() ? nullptr : &found->second;
    if (on_device == nullptr) make_room(moment);
    std::atomic<bool> all_finite{true};
    pool.run([&](int thread, int n_threads) {
        const size_t n = moment.n_sums(), i = static_cast<size_t>(thread);
        const size_t begin = n * i / static_cast<size_t>(n_threads);
        const size_t end = n * (i + 1) / static_cast<size_t>(n_threads);
        if (on_device != nullptr) {
            on_device->moments->read_floats(on_device->number, begin, end - begin, total + begin,
                                            part + begin);
        } else {
            round_sums(moment, begin, end, total, part);
        }
        if (!is_finite(total + begin, end - begin)) all_finite = false;
    });
    if (on_device != nullptr) {
        MomentOnHost counts = on_host(moment);
        counts.part = counts.rest = nullptr;
        on_device->moments->read(on_device->number, counts);
        on_device->moments->drop(on_device->number);
        on_device_.erase(found);
    }
    moment.part = moment.rest = {};
    if (!all_finite) {
        fail<ModelError>(input,
                         ": its second moment exceeds what a float holds; calibrate on fewer "
                         "chunks");
    }
}

bool InputMoments::share(const std::string& weight, const std::string& first) {
    const auto owner = input_of_.find(first);
    if (owner == input_of_.end()) return false;
    return input_of_.emplace(weight, owner->second).first->second == owner->second;
}

void InputMoments::restore(const std::string& input, InputMoment moment) {
    const size_t n_matrices = moment.counts.size();
    const size_t size = n_matrices * static_cast<size_t>(packed_size(moment.n_per_row));
    bring_to_host(input);
    if (moment.n_per_row < 1 || moment.part.size() != size || moment.rest.size() != size ||
        moment.part_counts.size() != n_matrices) {
        fail<InvalidArgument>(input, ": second moments and counts do not go together");
    }
    moments_[input] = std::move(moment);
    input_of_[input] = input;
}

void InputMoments::restore_share(const std::string& weight, const std::string& input) {
    if (moments_.count(input) == 0) {
        fail<InvalidArgument>(weight, ": there is no second moment of ", input);
    }
    input_of_[weight] = input;
}

}  // namespace apex
