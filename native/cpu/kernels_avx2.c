/* The kernels for AVX2 with FMA. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/begin.h"

JE_TARGET("avx2,fma")
#define JE_KERNELS je_kernels_avx2
#define JE_INSTRUCTIONS "avx2"
#include "isa/ymm.h"
#include "kernels/kernels.h"
JE_TARGET_END
#endif
