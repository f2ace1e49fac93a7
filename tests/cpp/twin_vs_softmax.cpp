// The GPU's scoring arithmetic, run on the CPU in the GPU's order, against the CPU's own loops: the
// same bits are expected.
//
//   twin_vs_softmax [--seed N] [--rows N]
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "cuda/softmax.cuh"
#include "scoring/softmax.h"
#include "scoring/softmax_score.h"
#include "softmax_cases.h"

namespace {

using apex::SoftmaxScore;
using apex::SoftmaxSums;
using apex::tests::same;
using Row = std::vector<float>;
namespace cuda = apex::cuda;

// cuda/softmax_rows.cu, find_top_kernel: threads stride over the row, then meet in a tree.
SoftmaxSums find_top(const Row& row, int32_t target) {
    constexpr size_t kThreads = 512;
    std::vector<cuda::Top> tops(kThreads, cuda::no_top());
    SoftmaxSums sums;
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

// cuda/softmax_rows.cu, compare_kernel.
void compare(const Row* reference, bool is_coded, SoftmaxSums* reference_sums, const Row* candidate,
             SoftmaxSums* candidate_sums, int64_t n_vocab) {
    cuda::Position position{};
    position.floor = is_coded ? apex::kCodedFloor : cuda::kNoFloor;
    if (reference != nullptr) {
        position.reference = reference->data();
        position.reference_max = is_coded ? 0.0 : reference_sums->max;
    }
    if (candidate != nullptr) {
        position.candidate = candidate->data();
        position.candidate_max = candidate_sums->max;
    }
    double lanes[3][cuda::kSoftmaxLanes] = {};
    for (int64_t i = 0; i < apex::kernels::padded_lanes(n_vocab); ++i) {
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

class Comparison {
  public:
    explicit Comparison(unsigned seed) : random_(seed) {}

    // The number of differing scores.
    int run(const apex::tests::ScoreCase& test, int64_t n_vocab) {
        reference_.resize(static_cast<size_t>(n_vocab));
        candidate_.resize(reference_.size());
        apex::tests::make_rows(test, n_vocab, random_, reference_.data(), candidate_.data());
        const auto target = static_cast<int32_t>(random_() % static_cast<uint64_t>(n_vocab));
        SoftmaxSums first = find_top(reference_, target), second = find_top(candidate_, target);
        compare(&reference_, test.is_coded, &first, &candidate_, &second, n_vocab);
        SoftmaxScore wanted[2];
        const float* rows[] = {candidate_.data()};
        apex::SoftmaxScratch scratch;
        const auto score = test.is_coded ? apex::score_rows_coded : apex::score_rows;
        score(reference_.data(), rows, 1, n_vocab, target, &wanted[0], &wanted[1], scratch);
        const SoftmaxScore found =
            test.is_coded ? apex::coded_score_of(first) : apex::score_of(first);
        int n_differ = same(found, wanted[0]) ? 0 : 1;
        n_differ += same(apex::score_against(first, test.is_coded, second), wanted[1]) ? 0 : 1;

        SoftmaxSums alone = find_top(candidate_, target);
        compare(nullptr, false, nullptr, &candidate_, &alone, n_vocab);
        n_differ += same(apex::score_of(alone), apex::score_row(candidate_.data(), n_vocab, target))
                        ? 0
                        : 1;
        return n_differ;
    }

  private:
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
    for (const apex::tests::ScoreCase& test : apex::tests::kScoreCases) {
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
