// The GPU's scoring arithmetic, run on the CPU in the GPU's order, against the CPU's own loops: the
// same bits are expected.
//
//   twin_vs_softmax [--seed N] [--rows N]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda/softmax.cuh"
#include "model/row_scores.h"
#include "model/score_kernel.h"

namespace {

using apex::RowScore;
using apex::RowSums;
using Row = std::vector<float>;
namespace cuda = apex::cuda;

// cuda/score_rows.cu, find_top_kernel: threads stride over the row, then meet in a tree.
RowSums find_top(const Row& row, int32_t target) {
    constexpr size_t kThreads = 512;
    std::vector<cuda::Top> tops(kThreads, cuda::no_top());
    RowSums sums;
    for (size_t thread = kThreads; thread-- > 0;) {
        for (size_t i = thread; i < row.size(); i += kThreads) {
            if (!cuda::is_finite_logit(row[i])) sums.is_finite = 0;
            tops[thread] = cuda::better(tops[thread], {row[i], static_cast<int32_t>(i)});
        }
    }
    for (size_t step = kThreads / 2; step > 0; step /= 2) {
        for (size_t i = 0; i < step; ++i) tops[i] = cuda::better(tops[i], tops[i + step]);
    }
    sums.top = tops[0].token == cuda::kNoToken ? 0 : tops[0].token;
    sums.max = row[static_cast<size_t>(sums.top)];
    sums.target = row[static_cast<size_t>(target)];
    return sums;
}

// cuda/score_rows.cu, compare_kernel.
void compare(const Row* reference, bool is_coded, RowSums* reference_sums, const Row* candidate,
             RowSums* candidate_sums, int64_t n_vocab) {
    cuda::Position position{};
    position.floor = is_coded ? cuda::kCodedFloor : cuda::kNoFloor;
    if (reference != nullptr) {
        position.reference = reference->data();
        position.reference_max = is_coded ? 0.0 : reference_sums->max;
    }
    if (candidate != nullptr) {
        position.candidate = candidate->data();
        position.candidate_max = candidate_sums->max;
    }
    double lanes[3][cuda::kSoftmaxLanes] = {};
    for (int64_t i = 0; i < cuda::whole_lanes(n_vocab); ++i) {
        const cuda::Terms terms = cuda::terms_of(position, i, n_vocab);
        lanes[0][i % cuda::kSoftmaxLanes] += terms.weight;
        lanes[1][i % cuda::kSoftmaxLanes] += terms.difference;
        lanes[2][i % cuda::kSoftmaxLanes] += terms.mass;
    }
    if (reference != nullptr) reference_sums->sum = cuda::add_lanes(lanes[0]);
    if (candidate == nullptr) return;
    candidate_sums->difference = cuda::add_lanes(lanes[1]);
    candidate_sums->sum = cuda::add_lanes(lanes[2]);
}

bool same_bits(double a, double b) {
    return std::memcmp(&a, &b, sizeof(a)) == 0;
}

bool same(const RowScore& a, const RowScore& b) {
    if (a.is_finite != b.is_finite || a.top != b.top) return false;
    if (!a.is_finite) return true;
    return same_bits(a.nll, b.nll) && same_bits(a.kld, b.kld) &&
           same_bits(a.top_probability, b.top_probability);
}

struct Case {
    const char* name;
    float spread;      // of the logits
    float difference;  // of the candidate
    bool is_coded;
    float spoiled;  // a value put into some candidates, 0: none
};

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr Case kCases[] = {{"usual", 3.0f, 0.1f, false, 0},
                           {"equal", 3.0f, 0.0f, false, 0},
                           {"flat", 0.0f, 0.5f, false, 0},
                           {"steep", 300.0f, 20.0f, false, 0},
                           {"coded", 4.0f, 0.1f, true, 0},
                           {"nan", 3.0f, 0.1f, false, kNan},
                           {"infinite", 3.0f, 0.1f, false, kInfinity},
                           {"minus", 3.0f, 0.1f, false, -kInfinity}};

class Comparison {
  public:
    explicit Comparison(unsigned seed) : random_(seed) {}

    // The number of differing scores.
    int run(const Case& test, int64_t n_vocab) {
        make_rows(test, n_vocab);
        const auto target = static_cast<int32_t>(random_() % static_cast<uint64_t>(n_vocab));
        RowSums first = find_top(reference_, target), second = find_top(candidate_, target);
        compare(&reference_, test.is_coded, &first, &candidate_, &second, n_vocab);
        RowScore wanted[2];
        const float* rows[] = {candidate_.data()};
        apex::ScoreScratch scratch;
        const auto score = test.is_coded ? apex::score_rows_coded : apex::score_rows;
        score(reference_.data(), rows, 1, n_vocab, target, &wanted[0], &wanted[1], scratch);
        const RowScore found = test.is_coded ? apex::coded_score_of(first) : apex::score_of(first);
        int n_differ = same(found, wanted[0]) ? 0 : 1;
        n_differ += same(apex::score_against(first, test.is_coded, second), wanted[1]) ? 0 : 1;

        RowSums alone = find_top(candidate_, target);
        compare(nullptr, false, nullptr, &candidate_, &alone, n_vocab);
        n_differ += same(apex::score_of(alone), apex::score_row(candidate_.data(), n_vocab, target))
                        ? 0
                        : 1;
        return n_differ;
    }

  private:
    void make_rows(const Case& test, int64_t n_vocab) {
        std::normal_distribution<float> normal;
        reference_.resize(static_cast<size_t>(n_vocab));
        candidate_.resize(reference_.size());
        for (size_t i = 0; i < reference_.size(); ++i) {
            reference_[i] = test.spread * normal(random_) - (test.is_coded ? 12.0f : 0.0f);
            candidate_[i] = reference_[i] + test.difference * normal(random_);
        }
        if (test.spoiled != 0) candidate_[random_() % candidate_.size()] = test.spoiled;
    }

    std::mt19937_64 random_;
    Row reference_, candidate_;
};

}  // namespace

int main(int argc, char** argv) {
    unsigned seed = 1;
    int rows = 20;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (std::string(argv[i]) == "--seed") seed = static_cast<unsigned>(std::atoi(argv[i + 1]));
        if (std::string(argv[i]) == "--rows") rows = std::atoi(argv[i + 1]);
    }
    Comparison comparison(seed);
    int n_all = 0;
    for (const Case& test : kCases) {
        int n_differ = 0;
        for (int i = 0; i < rows; ++i) {
            for (const int64_t n_vocab :
                 {int64_t{1}, int64_t{16}, int64_t{37}, int64_t{1024}, int64_t{4096 + i}}) {
                n_differ += comparison.run(test, n_vocab);
            }
        }
        std::printf("%-9s rows %d differ %d\n", test.name, 5 * rows, n_differ);
        n_all += n_differ;
    }
    return n_all == 0 ? 0 : 1;
}
