// Loops whose turns are written out: by four, for short ones, so that addresses and the loop itself
// cost less; or all of them, where a loop that is left would keep its sums in memory.
#pragma once

#if defined(__clang__)
#define APEX_UNROLL _Pragma("unroll 4")
#define APEX_UNROLL_FULLY _Pragma("clang loop unroll(full)")
#else
#define APEX_UNROLL _Pragma("GCC unroll 4")
#define APEX_UNROLL_FULLY _Pragma("GCC unroll 16")
#endif
