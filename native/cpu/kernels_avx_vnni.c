/* The kernels for AVX-VNNI, 256 bits. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/begin.h"

JE_TARGET("avx2,fma")
#define JE_DPBUSD "%{vex%} vpdpbusd"
#define JE_DPWSSD "%{vex%} vpdpwssd"
#define JE_KERNELS je_kernels_avx_vnni
#define JE_INSTRUCTIONS "avx_vnni"
#include "isa/ymm.h"
#include "kernels/kernels.h"
JE_TARGET_END
#endif
