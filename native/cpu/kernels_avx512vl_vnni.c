/* The kernels for AVX-512VL with VNNI, 256 bits. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/begin.h"

JE_TARGET("avx2,fma,avx512f,avx512vl,avx512vnni")
#define JE_DPBUSD "vpdpbusd"
#define JE_DPWSSD "vpdpwssd"
#define JE_KERNELS je_kernels_avx512vl_vnni
#define JE_INSTRUCTIONS "avx512vl_vnni"
#include "isa/ymm.h"
#include "kernels/kernels.h"
JE_TARGET_END
#endif
