/* The kernels for AVX-512 with VNNI. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/begin.h"

#if defined(__clang__) && __clang_major__ >= 18 && __clang_major__ < 22 /* a feature of these versions alone */
#define JE_EVEX ",evex512"
#else
#define JE_EVEX ""
#endif
JE_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma" JE_EVEX)
#define JE_KERNELS je_kernels_avx512_vnni
#define JE_INSTRUCTIONS "avx512_vnni"
#include "isa/avx512.h"
#include "kernels/kernels.h"
JE_TARGET_END
#endif
