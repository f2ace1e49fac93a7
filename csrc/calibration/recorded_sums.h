// The sums of a collection that several models compute, each of them other groups of chunks.
#pragma once

#include "calibration/imatrix_totals.h"
#include "calibration/squares_record.h"
#include "model/thread_pool.h"

namespace apex {

// A group's squares, of the trunk's weights and of the MTP block's.
struct GroupRecord {
    SquaresRecord trunk;
    SquaresRecord block;

    size_t n_bytes() const { return trunk.n_bytes() + block.n_bytes(); }
};

// Groups added in the text's order give the sums of one run over all of them, bit for bit.
class RecordedSums {
  public:
    explicit RecordedSums(int n_threads)
        : pool_(n_threads, kSleepAtOnce), trunk_(pool_), block_(pool_) {}

    // Throws ModelError as ImatrixTotals::add does; the sums then hold part of the group.
    void add(const GroupRecord& record) {
        record.trunk.add_to(trunk_);
        record.block.add_to(block_);
    }

    ImatrixTotals& totals(bool of_mtp_block) { return of_mtp_block ? block_ : trunk_; }

  private:
    static constexpr uint32_t kSleepAtOnce = 0;  // the cores are the models'

    ThreadPool pool_;
    ImatrixTotals trunk_;
    ImatrixTotals block_;
};

}  // namespace apex
