// A search as steps, each of which is a launch of its own: panels are searched, then what they
// changed is spread to the others. On a CPU the same steps are loops (tests/cpp).
#pragma once

#include "cuda/panel_products.cuh"
#include "cuda/panel_refine.cuh"
#include "cuda/panel_state.cuh"

namespace apex::cuda {

enum class SearchStep {
    read,
    feed,
    spread_errors,
    differ,
    set_gradient,
    refine,
    spread_changes,
    refit,
    spread_scales,
    write
};

constexpr bool is_product(SearchStep step) {
    return step == SearchStep::spread_errors || step == SearchStep::set_gradient ||
           step == SearchStep::spread_changes || step == SearchStep::spread_scales;
}

// Blocks of threads of a step.
struct SearchShape {
    int x, y;
};

// Columns outside a panel, in tiles; behind it when feeding.
inline int tiles_outside(const SearchJob& job, int panel, bool behind) {
    const int before = behind ? 0 : panel * (kPanel / kTileColumns);
    return before + parts_of(job.n - job.end_of(panel), kTileColumns);
}

inline SearchShape shape_of(SearchStep step, const SearchJob& job, int panel) {
    switch (step) {
        case SearchStep::read:
        case SearchStep::differ:
        case SearchStep::write:
            return {job.n_groups(), job.n_panels()};
        case SearchStep::spread_errors:
            return {job.n_row_tiles(), tiles_outside(job, panel, true)};
        case SearchStep::set_gradient:
            return {job.n_row_tiles(), parts_of(job.n, kTileColumns)};
        case SearchStep::spread_changes:
        case SearchStep::spread_scales:
            return {job.n_row_tiles(), tiles_outside(job, panel, false)};
        default:
            return {job.n_groups(), 1};
    }
}

// launch(step, panel, pass), one after the other.
template <typename Launch>
void search_in_steps(const SearchJob& job, const Launch& launch) {
    const int n_panels = job.n_panels();
    launch(SearchStep::read, 0, 0);
    for (int panel = 0; panel < n_panels; ++panel) {
        launch(SearchStep::feed, panel, 0);
        if (panel + 1 < n_panels) launch(SearchStep::spread_errors, panel, 0);
    }
    launch(SearchStep::differ, 0, 0);
    launch(SearchStep::set_gradient, 0, 0);
    for (int pass = 0; pass < job.max_passes; ++pass) {
        for (int panel = 0; panel < n_panels; ++panel) {
            launch(SearchStep::refine, panel, pass);
            if (n_panels > 1) launch(SearchStep::spread_changes, panel, pass);
        }
        for (int panel = 0; panel < n_panels; ++panel) {
            launch(SearchStep::refit, panel, pass);
            if (n_panels > 1) launch(SearchStep::spread_scales, panel, pass);
        }
    }
    launch(SearchStep::write, 0, 0);
}

// What one block of threads does; rows that the pass before left as they were are done.
template <SearchStep kStep, int kBlock, bool kBook>
APEX_BLOCK void search_panel(const Block& block, const SearchJob& job, SearchPlace place,
                             void* shared) {
    constexpr bool kOfAllPanels =
        kStep == SearchStep::read || kStep == SearchStep::differ || kStep == SearchStep::write;
    if (kOfAllPanels) place.panel = place.y;
    if (kStep == SearchStep::refine || kStep == SearchStep::refit) {
        const SearchState state = state_of(job, place.basis);
        if (kStep == SearchStep::refine && place.x == 0) {  // for the refit
            block.run([&](int thread) {
                if (thread < kPanelSupers) state.n_better[place.panel * kPanelSupers + thread] = 0;
            });
        }
        if (!state.is_active(job, place.pass, place.x * kGroupRows / kTileRows)) return;
    }
    PanelSearch<kBlock, kBook> panel(block, job, place, shared);
    if (kStep == SearchStep::read) panel.read();
    if (kStep == SearchStep::feed) panel.feed();
    if (kStep == SearchStep::differ) panel.differ();
    if (kStep == SearchStep::refine) panel.refine();
    if (kStep == SearchStep::refit) panel.refit();
    if (kStep == SearchStep::write) panel.write();
}

template <SearchStep kStep>
APEX_BLOCK void multiply_panel(const Block& block, const SearchJob& job, const SearchPlace& place,
                               ProductMemory& memory) {
    if (kStep == SearchStep::spread_changes) {
        if (!state_of(job, place.basis).is_active(job, place.pass, place.x)) return;
    }
    // Tiles of the panel itself are left out.
    const int before = place.panel * (kPanel / kTileColumns);
    int tile = place.y;
    if (kStep == SearchStep::spread_errors) tile += before + kPanel / kTileColumns;
    const bool is_outside =
        kStep == SearchStep::spread_changes || kStep == SearchStep::spread_scales;
    if (is_outside && tile >= before) tile += kPanel / kTileColumns;
    const PanelProducts products(block, job, place, tile * kTileColumns, memory);
    if (kStep == SearchStep::spread_errors) products.spread_errors();
    if (kStep == SearchStep::set_gradient) products.set_gradient();
    if (kStep == SearchStep::spread_changes) products.spread_changes();
    if (kStep == SearchStep::spread_scales) products.spread_scales();
}

}  // namespace apex::cuda
