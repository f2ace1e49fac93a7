// Compiles a plain loop for several instruction sets and picks one when the library loads.
//
// Only for loops whose result does not depend on the choice (no sums across lanes, no FMA).
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__)
#define APEX_SIMD_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define APEX_SIMD_CLONES
#endif
