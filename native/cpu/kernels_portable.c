/* The kernels in plain C. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O2") /* at O3 this file takes longest of all to compile, and nobody waits for its speed */
#endif
#include "kernels/begin.h"

#define JE_KERNELS je_kernels_portable
#define JE_INSTRUCTIONS "portable"
#include "isa/portable.h"
#include "kernels/kernels.h"
