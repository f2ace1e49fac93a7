// A panel between two steps of a search: read from the GPU's memory and written there.
#pragma once

#include "cuda/panel_search.cuh"

namespace apex::cuda {

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::load_scales() const {
    for_rows(n_supers_, [&](int super, int row) {
        d(super, row) = state_.d[at(first_super_ + super, row)];
        dm(super, row) = state_.dm[at(first_super_ + super, row)];
    });
    for_rows(n_blocks_, [&](int b, int row) {
        s(b, row) = state_.s[at(first_block_ + b, row)];
        m(b, row) = state_.m[at(first_block_ + b, row)];
    });
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::store_scales() const {
    for_rows(n_supers_, [&](int super, int row) {
        state_.d[at(first_super_ + super, row)] = d(super, row);
        state_.dm[at(first_super_ + super, row)] = dm(super, row);
    });
    for_rows(n_blocks_, [&](int b, int row) {
        state_.s[at(first_block_ + b, row)] = s(b, row);
        state_.m[at(first_block_ + b, row)] = m(b, row);
    });
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::load_levels() const {
    for_rows(width_, [&](int column, int row) {
        memory_.levels[column * kRows + row] = state_.levels[at(begin_ + column, row)];
    });
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::store_levels() const {
    for_rows(width_, [&](int column, int row) {
        state_.levels[at(begin_ + column, row)] = memory_.levels[column * kRows + row];
    });
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::load_work() const {
    for_columns([&](int column) {
        APEX_UNROLL
        for (int row = 0; row < kRows; ++row) {
            work(row, column) = state_.work[int64_t{first_row_ + row} * job_.n + begin_ + column];
        }
    });
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::store_work() const {
    for_columns([&](int column) {
        APEX_UNROLL
        for (int row = 0; row < kRows; ++row) {
            state_.work[int64_t{first_row_ + row} * job_.n + begin_ + column] = work(row, column);
        }
    });
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::read() {
    const int per_super = format_.n_blocks;
    for_rows(n_supers_, [&](int super, int row) {
        const uint8_t* from = job_.start + place_of(row_of(row), super);
        const size_t place = scalar_bits::place_of_d(format_.type);
        d(super, row) = read_half(from + place);
        dm(super, row) = format_.has_minimum ? read_half(from + place + 2) : 0.0f;
        for (int j = 0; j < per_super; ++j) {
            int scale = 1, minimum = 0;
            scalar_bits::read_integers(format_.type, from, j, scale, minimum);
            s(super * per_super + j, row) = static_cast<float>(scale);
            m(super * per_super + j, row) = static_cast<float>(minimum);
        }
    });
    store_scales();
    for_columns([&](int column) {
        for (int row = 0; row < kRows; ++row) {
            work(row, column) = job_.weights[int64_t{row_of(row)} * job_.n + begin_ + column];
        }
    });
    store_work();
    if (place_.panel > 0) return;
    block_.run([&](int thread) {
        for (int pass = thread; pass < job_.max_passes; pass += kSearchThreads) {
            state_.changed[pass * job_.n_row_tiles() + first_row_ / kTileRows] = 0;
        }
    });
}

template <int kBlock, bool kBook>
APEX_BLOCK void PanelSearch<kBlock, kBook>::write() const {
    load_scales();
    load_levels();
    const int per_super = format_.n_blocks;
    for_rows(n_supers_, [&](int super, int row) {
        if (row >= n_rows_) return;
        ScalarBlock parts;
        for (int j = 0; j < per_super; ++j) {
            parts.s[j] = static_cast<int>(s(super * per_super + j, row));
            parts.m[j] = static_cast<int>(m(super * per_super + j, row));
        }
        for (int i = 0; i < format_.super_block(); ++i) {
            const float found = level(row, super * format_.super_block() + i);
            parts.codes[i] = code_of<kBook>(format_, found);
        }
        uint8_t* to = job_.result + place_of(first_row_ + row, super);
        for (size_t i = 0; i < job_.block_bytes; ++i) to[i] = 0;
        const size_t place = scalar_bits::place_of_d(format_.type);
        write_half(d(super, row), to + place);
        if (format_.has_minimum) write_half(dm(super, row), to + place + 2);
        scalar_bits::write_codes(format_.type, parts, to);
    });
}

}  // namespace apex::cuda
